"""A page in a headless Chromium that notes what it complains of and what it asks for, and what a reader can see of it."""

import shutil
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# No sandbox, since containers have none to offer; nothing but this machine can be reached, noted or not.
FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
LOCAL = ("file", "data", "blob", "about")
LEGIBLE, LARGE = 4.5, 3.0  # WCAG 2.1 AA: contrast of text, and of large text


def installed() -> str:
    """The Chromium of this machine, or nothing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), "")


@dataclass
class Watch:
    """What the pages of a browser said and asked for."""

    served: str = ""
    noise: tuple[str, ...] = ()
    troubles: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def serves(self, address: str, noise: tuple[str, ...]) -> None:
        """From now on the server at an address may be asked; what has one of these words in it is its own affair."""
        self.served, self.noise = urlsplit(address).netloc, noise

    def on(self, context) -> None:
        """Notes errors and warnings of every page of the context, and stops each request that would leave the machine."""
        context.on("console", self._said)
        context.on("weberror", lambda event: self.troubles.append(str(event.error)))
        context.route("**/*", self._asked)

    def _said(self, message) -> None:
        told = f"{message.type}: {message.text} ({message.location['url']})"
        if message.type in ("error", "warning") and not any(word in told for word in self.noise):
            self.troubles.append(told)

    def _asked(self, route) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in LOCAL or address.netloc == self.served != "":
            route.continue_()
        else:
            self.left.append(route.request.url)
            route.abort()


def too_wide(page) -> list[str]:
    """What makes a page scroll sideways: elements that end beyond the viewport, where the page is wider than it."""
    return page.evaluate(
        """() => document.scrollingElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")]
          .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
          .map((each) => `${each.tagName} ${each.id || each.className}`).concat("the page")"""
    )


def broken_images(page) -> list[str]:
    """Images that a page shows without a picture in them, after those that load late were scrolled to."""
    return page.evaluate(
        """async () => {
          for (const image of document.images) image.loading = "eager";
          await Promise.allSettled([...document.images].map((image) => image.decode()));
          return [...document.images].filter((image) => !image.naturalWidth).map((image) => image.alt || image.src);
        }"""
    )


def faint(page) -> list[str]:
    """Visible text whose contrast to what it stands on is too low, worst first, as `ratio: text`.

    Backgrounds are painted one on the other as the browser does it; opacity and pictures are not considered.
    """
    return page.evaluate(
        """([legible, large]) => {
          const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
          const light = () => {
            const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((x) => x / 255)
              .map((x) => (x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4));
            return .2126 * r + .7152 * g + .0722 * b;
          };
          const paint = (colour) => { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); };
          const ground = (node) => {
            if (!node) return paint("white");
            ground(node.parentElement);
            paint(getComputedStyle(node).backgroundColor);
          };
          const contrast = (node, colour) => {
            ground(node);
            const below = light();
            paint(colour);
            const [dark, bright] = [below, light()].sort((a, b) => a - b);
            return (bright + .05) / (dark + .05);
          };
          const told = [];
          for (const node of document.querySelectorAll("body *")) {
            const words = [...node.childNodes].map((each) => (each.nodeType === 3 ? each.data : "")).join("").trim();
            if (!words || !node.checkVisibility({ visibilityProperty: true }) || node.matches("option")) continue;
            const style = getComputedStyle(node), size = parseFloat(style.fontSize);
            const big = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
            const ratio = contrast(node, node instanceof SVGElement ? style.fill : style.color);
            if (ratio < (big ? large : legible)) told.push([ratio, words.slice(0, 40)]);
          }
          return told.sort((a, b) => a[0] - b[0]).map(([ratio, words]) => `${ratio.toFixed(2)}: ${words}`);
        }""",
        [LEGIBLE, LARGE],
    )


def overlaps(page) -> list[str]:
    """Pairs of visible texts that are printed over each other, as `text | text`: boxes of lines that share more than a pixel.

    A text clipped by a part that scrolls counts as far as it can be seen.
    """
    return page.evaluate(
        """() => {
          const seen = (node, box) => {
            let { left, right, top, bottom } = box;
            for (let each = node; each && each !== document.body; each = each.parentElement) {
              if (getComputedStyle(each).overflowX === "visible") continue;
              const frame = each.getBoundingClientRect();
              [left, right] = [Math.max(left, frame.left), Math.min(right, frame.right)];
              [top, bottom] = [Math.max(top, frame.top), Math.min(bottom, frame.bottom)];
            }
            return { left, right, top, bottom };
          };
          const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const parent = node.parentElement;
            if (!node.data.trim() || parent.matches("script, style, option")) continue;
            if (!parent.checkVisibility({ visibilityProperty: true })) continue;
            const range = document.createRange();
            range.selectNodeContents(node);
            for (const line of range.getClientRects()) {
              const box = seen(parent, line);
              if (box.right - box.left > 1 && box.bottom - box.top > 1) texts.push({ node, ...box });
            }
          }
          texts.sort((a, b) => a.top - b.top);
          const found = [], spare = 1.5; // of a line's height: what rounding and tall fonts take
          for (let i = 0; i < texts.length; i++) {
            for (let j = i + 1; j < texts.length && texts[j].top < texts[i].bottom - spare; j++) {
              const [a, b] = [texts[i], texts[j]];
              const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
              const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
              const least = Math.min(a.bottom - a.top, b.bottom - b.top);
              if (a.node !== b.node && wide > 1 && high > Math.max(spare, 0.3 * least))
                found.push(`${a.node.data.trim().slice(0, 30)} | ${b.node.data.trim().slice(0, 30)}`);
            }
          }
          return found;
        }"""
    )
