"""The report in a real browser: Debian's Chromium without a display, driven by Playwright."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import run_all
from shared import built

sync_api = pytest.importorskip("playwright.sync_api")
axe_package = pytest.importorskip("axe_playwright_python.sync_playwright")

SERIOUS = {"serious", "critical"}
WIDTHS = (360, 1600)


@pytest.fixture(scope="session")
def pages(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make the report of a tiny run, and one that compares it with another."""

    def build(made: Path) -> None:
        run, other = (shutil.copytree(evaluated, made / name) for name in ("first", "second"))
        run_all(
            (
                ("report", run, "--out", made / "one.html"),
                ("report", run, other, "--out", made / "two.html"),
            )
        )

    made = built(tmp_path_factory, "pages", build)
    return {name: made / f"{name}.html" for name in ("one", "two")}


class Watched:
    """An open page with what went wrong in it, and what it asked of the network."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def slider(self, viewer: int) -> Any:
        return self.page.locator("[data-viewer] input[type=range]").nth(viewer)

    def shown(self, viewer: int) -> str:
        """Return the picture that a viewer shows."""
        source: str = self.page.locator("[data-viewer] img").nth(viewer).get_attribute("src")
        return source

    def said(self, viewer: int) -> str:
        text: str = self.page.locator("[data-viewer] output").nth(viewer).inner_text()
        return text

    def stored(self, model: str, nfe: int) -> str:
        """Return the picture that the page holds for this model and number of evaluations."""
        image = self.page.locator(f'[data-shelf] img[data-model="{model}"][data-nfe="{nfe}"]')
        source: str = image.first.get_attribute("src")
        return source


@pytest.fixture(params=["one", "two"])
def path(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


def test_nothing_fails_and_nothing_is_asked_of_the_network(browser: Any, path: Path) -> None:
    watched = Watched(browser, path)
    watched.page.mouse.wheel(0, 20000)
    assert watched.errors == []
    assert [url for url in watched.requests if not url.startswith("data:")] == [path.as_uri()]


def test_slider_and_keys_change_the_picture(browser: Any, pages: dict[str, Path]) -> None:
    watched = Watched(browser, pages["one"])
    assert watched.shown(0) == watched.stored("base", 4)  # the base model at its most evaluations
    assert watched.shown(1) == watched.stored("distill", 1)  # beside the student at its fewest
    watched.slider(0).focus()
    watched.page.keyboard.press("ArrowLeft")
    assert watched.shown(0) == watched.stored("base", 1) != watched.stored("base", 4)
    assert watched.said(0).startswith("base, 1 evaluation\n")
    assert "distance on classifier features" in watched.said(0)
    assert watched.slider(0).get_attribute("aria-valuetext") == "1 evaluation"
    watched.page.keyboard.press("Shift+Tab")  # from the slider to the choice of the model
    watched.page.keyboard.press("ArrowRight")
    assert watched.shown(0) == watched.stored("reflow", 1)
    assert watched.shown(1) == watched.stored("distill", 1)
    assert watched.errors == []


def test_viewers_of_several_runs_do_not_mix(browser: Any, pages: dict[str, Path]) -> None:
    watched = Watched(browser, pages["two"])
    before = [watched.said(viewer) for viewer in range(4)]
    watched.slider(2).focus()
    watched.page.keyboard.press("Home")
    after = [watched.said(viewer) for viewer in range(4)]
    assert [old != new for old, new in zip(before, after, strict=True)] == [False, False, True, False]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways(browser: Any, path: Path, width: int) -> None:
    watched = Watched(browser, path, width)
    watched.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    outside = watched.page.evaluate(
        "[...document.querySelectorAll('img, figure, .card, .wide, pre, h2, p, caption span')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).length"
    )
    assert outside == 0


def test_keyboard_focus_is_seen_wherever_it_goes(browser: Any, pages: dict[str, Path]) -> None:
    watched = Watched(browser, pages["one"])
    outlined = """() => {
        const it = document.activeElement, style = getComputedStyle(it.closest('label') ?? it);
        return [it.tagName, style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth)];
    }"""
    found = []
    for _ in range(40):
        watched.page.keyboard.press("Tab")
        found.append(watched.page.evaluate(outlined))
    assert {"A", "INPUT", "SUMMARY", "DIV", "PRE", "BUTTON"} <= {name for name, _ in found}
    assert [name for name, width in found if name != "BODY" and width < 2] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser: Any, path: Path, scheme: str) -> None:
    watched = Watched(browser, path, 1280, scheme)
    watched.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe_package.Axe().run(watched.page).response
    faults = {
        fault["id"]: fault["nodes"][0]["html"]
        for fault in found["violations"]
        if fault["impact"] in SERIOUS
    }
    assert faults == {}
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}  # it did look


def test_what_is_folded_is_printed_and_viewers_are_not(browser: Any, pages: dict[str, Path]) -> None:
    watched = Watched(browser, pages["one"])
    picture = watched.page.locator("[data-shelf] img").first
    assert not picture.is_visible()
    watched.page.emulate_media(media="print")
    watched.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert picture.is_visible()
    assert not watched.slider(0).is_visible()
    watched.page.evaluate("dispatchEvent(new Event('afterprint'))")
    watched.page.emulate_media(media="screen")
    assert not picture.is_visible()


def test_without_script_all_grids_are_seen(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["one"].as_uri())
    assert page.locator("[data-shelf] img").first.is_visible()
    assert not page.locator("[data-viewer]").first.is_visible()
    context.close()


def test_copying_the_commands_is_said(browser: Any, pages: dict[str, Path]) -> None:
    watched = Watched(browser, pages["one"])
    watched.page.locator("[data-copy$=commands]").click()
    status = watched.page.locator("[data-copy$=commands] + [role=status]")
    sync_api.expect(status).to_have_text("Copied.")
    assert watched.errors == []
