"""A page in a real browser: what it measures of itself at a width."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROBE = """
<script>
  addEventListener("load", () => {
    const root = document.documentElement;
    const wide = [...document.querySelectorAll("body *")]
      .filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > root.clientWidth + 1)
      .map(e => e.tagName + " " + e.textContent.trim().slice(0, 60));
    const fetched = performance.getEntriesByType("resource").map(e => e.name)
      .filter(name => !name.startsWith("data:"));
    const broken = [...document.images].filter(i => !i.naturalWidth).map(i => i.alt);
    const all = document.querySelectorAll("#numbers tbody tr").length;
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let smallest = Infinity;
    while (texts.nextNode()) {
      const parent = texts.currentNode.parentElement;
      if (texts.currentNode.data.trim() && parent.offsetParent)
        smallest = Math.min(smallest, parseFloat(getComputedStyle(parent).fontSize));
    }
    // a point of a figure in pixels; the smallest type of a figure has 6 points
    const points = [...document.querySelectorAll("img.drawn")]
      .map(i => 4 / 3 * i.getBoundingClientRect().width / i.naturalWidth);
    const scrolled = [...document.querySelectorAll(".scroll")]
      .filter(e => e.querySelector("img.drawn") && e.scrollWidth > e.clientWidth + 1)
      .map(e => e.querySelector("img.drawn").alt);
    const head = document.querySelectorAll("table.scores th button")[3];
    const scores = () => [...document.querySelectorAll("table.scores tbody tr")]
      .map(r => parseFloat(r.cells[3].dataset.order));
    head?.click();
    const ascending = scores();
    head?.click();
    const descending = scores();
    const input = document.querySelector("input[data-rows=numbers]");
    if (input) {
      input.value = "velocity.viv conv-base";
      input.dispatchEvent(new Event("input"));
    }
    const shown = [...document.querySelectorAll("#numbers tbody tr")].filter(r => !r.hidden);
    parent.document.documentElement.dataset.seen = JSON.stringify({
      smallest, points, scrolled, ascending, descending,
      width: root.clientWidth, content: root.scrollWidth, wide, fetched, broken,
      shown: shown.map(r => r.textContent), all,
      count: document.getElementById("found")?.textContent,
    });
  });
</script>
"""


def find_browser() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def look(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """Return widths, what is too wide, what was fetched, rows before and after a filter."""
    browser = find_browser()
    assert browser is not None
    probed = folder / f"probed-{width}.html"
    html = escape(page.read_text().replace("</body>", f"{PROBE}</body>"))
    # a window cannot be as narrow as a phone, a frame can
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html}"></iframe>'
    probed.write_text(f"<!doctype html><body>{frame}</body>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,1000"]
    options += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    result = subprocess.run(
        [browser, *options, "--dump-dom", f"file://{probed}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seen = re.search(r'data-seen="([^"]*)"', result.stdout)
    assert seen is not None, result.stderr
    return dict(json.loads(unescape(seen[1])))
