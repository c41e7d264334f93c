"""The page in headless Chromium: a person loads it, searches, decides by keys, and finds the new dataset."""

import asyncio
from pathlib import Path

import pytest

from gristmill.cluster.store.store import Store
from gristmill.cluster.ui.scan import prepare
from tests.cluster.ui.browser import CHROMIUM, Tab, chromium, tab
from tests.cluster.ui.conftest import ROWS, Page
from tests.invariants import samples_of

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path (Debian: apt-get install chromium)")


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    """Compile the search before a browser waits for it."""
    prepare()


FIRST = "document.querySelector('.rows li.current')"
TEXTS = "[...document.querySelectorAll('.rows .ask')].map(one => one.textContent)"


async def type_words(page: Tab, words: str) -> None:
    await page.key("/")
    await page.wait("document.activeElement.type === 'search'")
    await page.call("Input.insertText", text=words)
    await page.wait(f"new URLSearchParams(location.hash.split('?')[1]).get('words') === {words!r}")
    await page.key("Escape")
    assert await page.run("document.querySelector('input[type=search]').value") == words


async def review(page: Tab) -> str:
    await page.wait("document.querySelector('a[href=\"#/data/generate-1\"]')")
    assert await page.run("location.hash") == "#/", "the token is not in the address any more"
    await page.run("document.querySelector('a[href=\"#/data/generate-1\"]').click()")
    await page.wait(f"{TEXTS}.length === 7")
    assert await page.run("document.querySelectorAll('main img, main script').length") == 0
    assert await page.run("document.title") == "generate-1 · Gristmill"
    assert await page.run("document.querySelector('.escape').textContent") == "\\u202e"

    await type_words(page, "黄河")
    await page.wait(f"{TEXTS}.length === 1")
    assert await page.run("document.querySelector('mark').textContent") == "黄河"
    await page.key("r")
    await page.wait(f"{FIRST}.querySelector('.verdict').textContent === 'rejected'")

    await type_words(page, "name three")
    await page.wait(f"{TEXTS}.length === 2")
    await page.key("Enter")
    await page.wait("document.querySelector('.detail .kin')")
    await page.key("j")
    await page.wait("document.querySelector('.detail .reason')")
    await page.key("a")
    await page.wait("document.querySelector('.detail .badge.accepted')")
    await page.key("k")
    await page.wait("!document.querySelector('.detail .reason')")
    await page.key("e")
    await page.wait("document.activeElement.matches('.detail textarea')")
    await page.call("Input.insertText", text=" and Main")
    await page.key("Enter", control=True)
    await page.wait("document.querySelector('.bottom').textContent.includes('1 edited')")

    await page.key("4")
    await page.wait("document.querySelectorAll('.pair section').length === 2")
    await page.key("s")
    await page.wait("document.querySelector('#saved')")
    name = await page.run("document.querySelector('#saved').textContent")
    await page.run("document.querySelector('#saved').click()")
    await page.wait(f"document.querySelector('h1').textContent === {name!r}")
    await page.wait("document.querySelector('#total')?.textContent.startsWith('8 of 8')")
    await page.key("?")
    await page.wait("document.querySelector('#help').open")
    assert page.errors == []
    return str(name)


def test_a_person_reviews_by_keyboard(page: Page, filled: Store, tmp_path: Path) -> None:
    async def go(port: int) -> str:
        async with tab(port, f"{page.address}/#token={page.server.token}") as opened:
            return await review(opened)

    with chromium(tmp_path) as port:
        rows = samples_of(filled, asyncio.run(go(port)))
    by_id = {row.id: row for row in rows}
    assert by_id[ROWS[0].id].dropped == "person: rejected"
    assert by_id[ROWS[4].id].dropped is None
    [new] = [row for row in rows if row.method == "edit"]
    assert (new.parents, new.answer) == ((ROWS[2].id,), "Elbe, Oder, Rhine and Main")


def test_without_the_token_the_page_says_what_to_do(page: Page, tmp_path: Path) -> None:
    async def go(port: int) -> None:
        async with tab(port, page.address) as opened:
            await opened.wait("document.querySelector('.error')")
            assert "open the address that the terminal shows" in await opened.run("document.body.innerText")

    with chromium(tmp_path) as port:
        asyncio.run(go(port))
