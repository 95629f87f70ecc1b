// A line must not begin with the comma or full stop that follows a formula.
document.addEventListener("DOMContentLoaded", () => {
  for (const formula of document.querySelectorAll("article span.math")) {
    const text = formula.nextSibling;
    if (text?.nodeType !== Node.TEXT_NODE) continue;
    const [mark] = text.data.match(/^[^\s\p{L}\p{N}]*/u);
    if (!mark) continue;
    const unbroken = document.createElement("span");
    unbroken.className = "unbroken";
    formula.replaceWith(unbroken);
    unbroken.append(formula, mark);
    text.data = text.data.slice(mark.length);
  }
});
