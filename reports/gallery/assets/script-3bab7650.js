if (!/^(file|https?):$/.test(location.protocol)) { // shown out of its folder, as MLflow shows an artifact
  const links = [...document.querySelectorAll("a[href]")].filter((link) => !/^(#|[a-z]+:)/.test(link.getAttribute("href")));
  for (const link of links) link.removeAttribute("href");
  if (links.length) {
    const note = document.createElement("p");
    note.className = "meta";
    note.textContent = "Links to files work in the downloaded folder.";
    document.querySelector("header").append(note);
  }
}
