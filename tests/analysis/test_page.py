import json
import re

from rag_exp.analysis.page import Cell, Chart, Page, mathed


def test_powers_are_set_as_mathematics_and_the_rest_is_escaped():
    assert mathed("E + A N^-alpha - G M^0.93") == (
        "<i>E</i> + <i>A</i> <i>N</i><sup>−α</sup> − <i>G</i> <i>M</i><sup>0.93</sup>"
    )
    assert mathed("9 - 0.5 ln M") == "9 − 0.5 ln <i>M</i>"
    assert mathed("a < b & c") == "a &lt; b &amp; c"
    assert mathed("A model reads - slowly") == "A model reads - slowly"


def test_nothing_inside_can_end_its_script_element():
    page = Page("a <title>")
    nasty = {"text": "</script><script>alert(1)</script><!--"}
    page.chart(Chart("one", "One", "A caption.", nasty, "<svg></svg>"))
    html = page.html("const x = '</script>';")
    body = re.search(r'<script type="application/vnd\.vegalite\+json"[^>]*>(.*?)</script>', html, re.S)[1]
    assert json.loads(body) == nasty
    assert html.count("</script>") == 3
    assert "<title>a &lt;title&gt;</title>" in html


def test_libraries_stand_in_the_page_once_and_only_for_charts():
    page = Page("none")
    page.paragraph("words")
    assert "LIBRARY" not in page.html("LIBRARY")
    for name in ("a", "b"):
        page.chart(Chart(name, name, name, {}, ""))
    assert page.html("LIBRARY").count("LIBRARY") == 1


def test_columns_of_numbers_are_set_right_and_carry_their_sort_values():
    page = Page("t")
    page.table(
        ["name", "loss"], [[Cell("b"), Cell("1,000", 1000.0, True)], [Cell("a"), Cell("–", None, True)]], chosen=[0]
    )
    html = page.html("")
    assert '<th class="num">loss</th>' in html
    assert '<tr class="chosen"><td>b</td><td class="num" data-value="1000.0">1,000</td></tr>' in html
    assert '<td class="num" data-value="">–</td>' in html
