// Keys that every screen has, and the dialog that says which they are.

import { useEffect, useState } from "preact/hooks";

import { Modal } from "./Modal";

export function Keys() {
  const [isOpen, setOpen] = useState(false);
  useEffect(() => {
    const pressed = (event: KeyboardEvent): void => {
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      if (event.key === "/") {
        const filter = document.querySelector<HTMLInputElement>("[data-filter]");
        if (!filter) return;
        event.preventDefault();
        filter.focus();
        filter.select();
      } else if (event.key === "?") {
        event.preventDefault();
        setOpen(true);
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  if (!isOpen) return null;
  return (
    <Modal title="Keys" onClose={() => setOpen(false)}>
      <dl class="keys">
        <dt>
          <kbd>/</kbd>
        </dt>
        <dd>to the filter</dd>
        <dt>
          <kbd>↑</kbd> <kbd>↓</kbd> <kbd>Home</kbd> <kbd>End</kbd>
        </dt>
        <dd>from row to row of a table</dd>
        <dt>
          <kbd>Enter</kbd>
        </dt>
        <dd>opens the row</dd>
        <dt>
          <kbd>Esc</kbd>
        </dt>
        <dd>closes a dialog, and does nothing else</dd>
        <dt>
          <kbd>Ctrl</kbd>+<kbd>]</kbd>
        </dt>
        <dd>leaves a console's terminal</dd>
        <dt>
          <kbd>?</kbd>
        </dt>
        <dd>this list</dd>
      </dl>
      <div class="actions">
        <button type="button" onClick={() => setOpen(false)}>
          Close
        </button>
      </div>
    </Modal>
  );
}

// Whether a key is a letter of a text, or goes to the guest.
function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && (target.closest("input, select, textarea, dialog") !== null || target.isContentEditable)
  );
}
