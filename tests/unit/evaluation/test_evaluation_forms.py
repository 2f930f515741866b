"""Reports as text, JSON, Markdown and HTML; pictures; numbers."""

import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluation_fakes import HISTORY, FakeModel, as_dataset, normal_data, normal_model, people

from reverie.data.forms.reading import read_table
from reverie.data.pictures import grid_png, scatter_png, tile, to_uint8
from reverie.errors import DataError
from reverie.evaluation import evaluate
from reverie.evaluation.features import PixelSpace, TableSpace, row_bytes
from reverie.evaluation.pages.pictures import _tick, curves, loss_curve_svg, marginal, strip, ticks
from reverie.evaluation.rows import Row, number
from reverie.metrics import Column

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Checker(HTMLParser):
    """Counts tags, checks nesting, collects addresses and images without alternative text."""

    def __init__(self):
        super().__init__()
        self.open, self.problems, self.addresses, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.addresses += [attrs[key] for key in ("src", "href") if attrs.get(key)]
        if tag == "img" and not attrs.get("alt"):
            self.problems.append("img without alt")
        if tag == "svg" and not (attrs.get("aria-label") or attrs.get("aria-hidden")):
            self.problems.append("svg without a name")
        if tag == "th" and "scope" not in attrs:
            self.problems.append("th without scope")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> does not close what is open")


def check_page(html):
    checker = Checker()
    checker.feed(html)
    assert checker.problems == []
    assert checker.open == []
    assert all(address.startswith("data:") for address in checker.addresses)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert "url(" not in html
    assert "@import" not in html
    return checker


@pytest.fixture(scope="module")
def report():
    train, test = people(500, 1), people(250, 2)
    train = train.rename(columns={"member": "<b>member</b> & co"})
    test = test.rename(columns={"member": "<b>member</b> & co"})

    def draw(n, rng):
        return people(n, int(rng.integers(2**31)), rho=False).rename(columns={"member": "<b>member</b> & co"})

    data = as_dataset(train)
    model = FakeModel(
        data.schema,
        draw,
        history=HISTORY,
        warnings=["2 columns are constant"],
        info={"parameters": 12345, "seconds": 2.5, "seed": 0},
    )
    return evaluate(model, test, train)


def test_json_is_strict_and_complete(report, tmp_path):
    path = tmp_path / "deep" / "report.json"
    report.to_json(path)
    data = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert data["format"] == "reverie report 1"
    assert [row["name"] for row in data["rows"]] == [row.name for row in report.rows]
    assert data["rows"][0].keys() == set(Row(name="a", value=1.0).to_dict())
    assert data["summary"][0].keys() == {"text", "tone"}
    assert Row(name="a", value=math.inf).to_dict()["value"] == "inf"


def test_markdown_and_text_hold_every_row(report):
    text, markdown = repr(report), report.to_markdown()
    for row in report.rows:
        assert row.name in text
        assert row.name.replace("|", "\\|") in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == len(report.rows) + 2
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("figure")).split() == [
        "figure",
        "value",
        "range",
        "floor",
        "verdict",
    ]


def test_page_stands_alone_and_is_well_formed(report, tmp_path):
    html = report.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html
    checker = check_page(html)
    assert "prefers-color-scheme:dark" in html
    assert '<meta name="viewport"' in html
    assert "<b>member</b>" not in html
    assert "&lt;b&gt;member&lt;/b&gt; &amp; co" in html
    assert checker.tags.count("h1") == 1
    for heading in (
        "In words",
        "Figures and their floors",
        "Column by column",
        "Closest to the training data",
        "Training",
        "Notes",
    ):
        assert heading in html
    assert "12,345 parameters" in html
    assert "2 columns are constant" in html
    for finding in report.summary:
        assert finding.text.split(":")[0] in html
    fragment = report._repr_html_()
    assert "<html" not in fragment
    assert "coverage[table]" in fragment


def test_importing_evaluation_leaves_heavy_packages_alone():
    code = "import sys, reverie.evaluation; print([m for m in ('pandas','sklearn','PIL','matplotlib','jinja2','rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_row_names_are_answered(report):
    with pytest.raises(KeyError, match=r"kid\[table\]"):
        report.row("kid")


def test_scatter_in_the_page_of_two_numbers():
    data = normal_data(200, 2)
    html = evaluate(normal_model(data, 2, history=HISTORY), data, data).to_html()
    check_page(html)
    assert html.count("<circle") > 150
    assert "validation coloured" in html


@pytest.mark.parametrize(
    ("images", "high", "expected"),
    [
        (np.full((1, 2, 2), 200, np.uint8), None, 200),
        (np.full((1, 2, 2), 16, np.uint8), 16, 255),
        (np.full((1, 2, 2), 65535, np.uint16), None, 255),
        (np.full((1, 2, 2), 0.5, np.float32), None, 128),
        (np.full((1, 2, 2, 3), 2.0), 1.0, 255),
        (np.full((1, 2, 2), np.nan), 1.0, 0),
        (np.ones((1, 2, 2), bool), None, 255),
        (np.full((1, 2, 2, 2), 7, np.uint8), None, 7),
    ],
)
def test_image_values_are_scaled_by_high(images, high, expected):
    got = to_uint8(images, high)
    assert (got == expected).all()
    assert got.dtype == np.uint8


def test_grid_png_is_a_picture_of_the_images():
    from PIL import Image

    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1) * 40 + np.zeros((6, 4, 5), np.uint8)
    picture = np.asarray(Image.open(io.BytesIO(grid_png(images, columns=3, scale=2))))
    assert picture.shape == (2 * (4 + 1 + 4), 2 * (5 + 1 + 5 + 1 + 5))
    assert picture[0, 0] == 0
    assert picture[-1, -1] == 200
    colour = np.asarray(Image.open(io.BytesIO(grid_png(np.ones((2, 4, 4, 3)), 1.0))))
    assert colour.shape[2] == 3
    assert tile(np.zeros((5, 2, 2), np.uint8)).shape == (5, 8)
    with pytest.raises(DataError, match="expected images"):
        grid_png(np.zeros((4, 4)))
    with pytest.raises(DataError, match="high must exceed low"):
        grid_png(np.zeros((1, 4, 4)), 0.0)


def test_scatter_png():
    from PIL import Image

    points = np.random.default_rng(0).normal(size=(50, 2))
    picture = np.asarray(Image.open(io.BytesIO(scatter_png([*(points + 1.5), [40, 0]], points, size=64))))
    assert picture.shape == (64, 64, 3)
    lone = np.asarray(Image.open(io.BytesIO(scatter_png(points, size=64))))
    assert (lone != picture).any()
    with pytest.raises(DataError):
        scatter_png(np.zeros((4, 3)))


def test_curves_pair_training_and_validation():
    drawn = curves(HISTORY)
    assert [figure.title for figure in drawn] == ["loss"]
    assert drawn[0].svg.count("<polyline") == 2
    assert "validation from 4.1" in drawn[0].alt
    assert curves([{"epoch": 0, "loss": 1.0}]) == []
    assert loss_curve_svg([]) == ""
    assert loss_curve_svg(HISTORY).startswith("<svg")
    odd = [{"epoch": i, "loss": v} for i, v in enumerate([1.0, math.nan, math.inf, 2.0])]
    assert "nan" not in curves(odd)[0].svg


def test_marginal_figures_of_odd_columns():
    constant = Column("c", np.ones(20))
    assert "<svg" in marginal(constant, constant).svg
    empty = Column("c", np.full(20, np.nan))
    assert marginal(empty, constant).svg == ""
    assert "nan" not in marginal(constant, empty).svg
    many = Column("k", np.arange(40) % 20, 20)
    assert "all others" in marginal(many, many, [f"level {i}" for i in range(20)]).svg


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 4), (7, 3)])
def test_pictures_are_shown_in_channels_that_a_file_can_have(channels, shown):
    images = np.arange(2 * 3 * 3 * channels, dtype=np.uint8).reshape(2, 3, 3, channels)
    np.testing.assert_array_equal(to_uint8(images), images[..., :shown])


def test_ticks_are_written_out_where_that_is_short():
    found = [_tick(value) for value in (0.5, -3.0, 123456.0, 1.5e-7, 2e6)]
    assert found == ["0.5", "−3", "123,456", "1.5e−07", "2e+06"]


def test_ticks_and_strip():
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(1, 1, 5) == [1]
    assert all(-0.3 <= t <= 0.7 for t in ticks(-0.3, 0.7, 4))
    assert strip(None) == ""
    assert "circle" in strip(1.0)
    assert "path" in strip(math.inf)


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (1.23456, None, "1.235"),
        (0.0512345, 0.0031, "0.0512"),
        (-2.5, 0.1, "−2.50"),
        (123456.7, None, "123,457"),
        (1e-12, None, "1.00e−12"),
        (0.0, 0.5, "0"),
        (8.0, None, "8"),
        (-0.0001, 0.01, "0.000"),
        (math.nan, None, "–"),
        (-math.inf, None, "−∞"),
    ],
)
def test_number(value, spread, text):
    assert number(value, spread) == text


def test_table_space_weighs_columns_alike_and_survives_odd_cells():
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(5, 3, 400), "k": rng.choice(["u", "v"], 400)})
    data = as_dataset(frame)
    space = TableSpace(data.schema, data.take(np.arange(400)))
    x = space.encode(data.take(np.arange(400)))
    assert x[:, 0].mean() == pytest.approx(0, abs=1e-12)
    assert x[:, 0].std() == pytest.approx(1)
    # Two different levels lie at squared distance 2.
    levels = np.unique(x[:, 1:], axis=0)
    assert ((levels[0] - levels[1]) ** 2).sum() == 2
    odd = read_table(data.schema, pd.DataFrame({"a": [np.nan, 1e9], "k": ["u", None]}))
    encoded = space.encode(odd)
    assert np.isfinite(encoded).all()
    assert encoded[:, 0].tolist() == [0.0, 10.0]


def test_table_space_keeps_the_common_levels_and_joins_the_rare():
    import pandas as pd

    names = [f"level {i:03d}" for i in range(100)]
    common = names[50:]
    frame = pd.DataFrame({"k": pd.Categorical(common * 20 + names, categories=names)})
    data = as_dataset(frame)
    space = TableSpace(data.schema, data.take(np.arange(len(frame))))
    x = space.encode(read_table(data.schema, pd.DataFrame({"k": pd.Categorical(names, categories=names)})))
    # 64 levels have a place of their own, the 50 common ones among them; the other 36 share one.
    assert len(np.unique(x, axis=0)) == 65
    assert len(np.unique(x[50:], axis=0)) == 50


def test_pixel_space_is_the_same_from_either_side_of_the_matrix():
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6)).astype(np.uint8)
    tall = as_dataset(np.repeat(images, 2, axis=0))
    wide = as_dataset(images)
    a = PixelSpace(tall.schema, tall.take(np.arange(60)), components=4).encode(wide.take(np.arange(30)))
    b = PixelSpace(wide.schema, wide.take(np.arange(30)), components=4).encode(wide.take(np.arange(30)))
    # The same directions (up to sign); variances with divisors 59 and 29 differ by that factor.
    ratio = np.abs(a / b)
    assert ratio == pytest.approx(np.full_like(ratio, ratio[0, 0]), rel=1e-6)
    assert b.var(axis=0, ddof=1).mean() == pytest.approx(1.0)


def test_large_and_colour_images_are_reduced_and_holes_filled():
    images = np.random.default_rng(0).random((12, 130, 100, 3)).astype(np.float32)
    images[0, :50, :50] = np.nan
    data = as_dataset(images)
    features = PixelSpace(data.schema, data.take(np.arange(12))).encode(data.take(np.arange(12)))
    assert features.shape[0] == 12
    assert np.isfinite(features).all()


def test_row_bytes_find_copies_whatever_the_column():
    frame = people(50, 3)
    data = as_dataset(frame)
    table = data.take(np.arange(50))
    keys = {row.tobytes() for row in row_bytes(data.schema, table)}
    again = read_table(data.schema, frame.iloc[::-1])
    assert all(row.tobytes() in keys for row in row_bytes(data.schema, again))
