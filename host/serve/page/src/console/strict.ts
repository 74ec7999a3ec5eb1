// Has xterm make no inline styles, which the page's content security policy refuses.

// xterm makes `<style>` elements and sets `style` attributes by the document that is global. While a terminal is open, what it makes has the
// same effect by CSSOM, which the policy lets be: a style element's text goes into a sheet of its own, and a style attribute's into the
// element's declarations.
export function withoutInlineStyles(): () => void {
  const plain = document.createElement.bind(document);
  document.createElement = ((tag: string, options?: ElementCreationOptions) => {
    if (tag === "style") return sheet(plain("span"));
    const element = plain(tag, options);
    if (tag === "span") element.setAttribute = setAttribute;
    return element;
  }) as typeof document.createElement;
  return () => {
    Reflect.deleteProperty(document, "createElement");
  };
}

function setAttribute(this: HTMLElement, name: string, value: string): void {
  if (name === "style") this.style.cssText = value;
  else Element.prototype.setAttribute.call(this, name, value);
}

function sheet(element: HTMLElement): HTMLElement {
  const own = new CSSStyleSheet();
  document.adoptedStyleSheets.push(own);
  const text = { get: () => "", set: (text: string) => own.replaceSync(text) };
  Object.defineProperties(element, { textContent: text, innerText: text });
  element.hidden = true;
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== own);
    Element.prototype.remove.call(element);
  };
  return element;
}
