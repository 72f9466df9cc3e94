"""Where the letters of a page and of its drawings are: what lies over what, what is cut off, and how large letters are."""

# Runs in a page. Lines of text that are seen, as [left, top, right, bottom, words]: cut to what boxes with an overflow show.
TEXTS = """(root) => {
  const found = [];
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const words = node.data.trim(), own = node.parentElement;
    if (!words || !own.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true })) continue;
    if (own.closest("option, script, style, .bar")) continue;
    let [left, top, right, bottom] = [-Infinity, -Infinity, Infinity, Infinity];
    for (let box = own; box && box !== document.body; box = box.parentElement) {
      if (getComputedStyle(box).overflowX === "visible") continue;
      const edge = box.getBoundingClientRect();
      [left, right] = [Math.max(left, edge.left), Math.min(right, edge.right)];
    }
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const part of range.getClientRects()) {
      const seen = [Math.max(left, part.left), part.top, Math.min(right, part.right), part.bottom];
      if (seen[2] - seen[0] > 1 && part.height > 1) found.push([...seen, words.slice(0, 40)]);
    }
  }
  return found;
}"""
# Words of a drawing: scaled groups of glyphs, as those of marks are not, with the size of their em in pixels of the screen.
GLYPHS = """(svg) => [...svg.querySelectorAll("g")]
  .filter((group) => /scale/.test(group.getAttribute("transform")))
  .filter((group) => group.querySelector(":scope > use"))
  .map((group) => {
    const box = group.getBoundingClientRect(), scale = group.getScreenCTM();
    return [box.left, box.top, box.right, box.bottom, 100 * Math.hypot(scale.a, scale.b)];
  })"""
SLACK = 2.0  # pixels by which boxes of lines may meet: they hold more than the letters


def overlaps(boxes: list[list], slack: float = SLACK) -> list[tuple]:
    """Pairs of boxes that lie over one another by more than a little in both directions."""
    order = sorted(boxes, key=lambda box: box[1])
    found = []
    for i, one in enumerate(order):
        for other in order[i + 1 :]:
            if other[1] > one[3] - slack:
                break
            wide = min(one[2], other[2]) - max(one[0], other[0])
            high = min(one[3], other[3]) - max(one[1], other[1])
            if wide > slack and high > slack:
                found.append((one, other))
    return found


def outside(boxes: list[list], width: float, height: float, slack: float = 0.6) -> list[list]:
    """Boxes that reach past the edges of a drawing of this size."""
    return [box for box in boxes if min(box[:2]) < -slack or box[2] > width + slack or box[3] > height + slack]
