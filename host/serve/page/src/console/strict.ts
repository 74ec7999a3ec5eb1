// A document for xterm that makes no inline styles, which the page's content security policy refuses.

// xterm makes `<style>` elements and sets `style` attributes. What it makes by this document has the same effect by CSSOM: a style element's
// text goes into a sheet of its own, and a style attribute's into the element's declarations.
export function strictDocument(): Document {
  return new Proxy(document, {
    get(target, name) {
      if (name === "createElement") {
        return (tag: string) => (tag === "style" ? sheet() : styled(target.createElement(tag)));
      }
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

function sheet(): HTMLElement {
  const element = document.createElement("span");
  const own = new CSSStyleSheet();
  document.adoptedStyleSheets.push(own);
  element.hidden = true;
  Object.defineProperty(element, "textContent", { set: (text: string) => own.replaceSync(text) });
  element.remove = () => {
    const kept = document.adoptedStyleSheets.filter((one) => one !== own);
    document.adoptedStyleSheets = kept;
    Element.prototype.remove.call(element);
  };
  return element;
}

function styled(element: HTMLElement): HTMLElement {
  element.setAttribute = (name: string, value: string) => {
    if (name === "style") element.style.cssText = value;
    else Element.prototype.setAttribute.call(element, name, value);
  };
  return element;
}
