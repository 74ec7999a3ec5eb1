// The terminal. What a guest writes can draw in it, and do nothing else: no links, no clipboard, no title, no windows.

import { FitAddon } from "@xterm/addon-fit";
import { Terminal, type ITheme } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";

import type { Problem } from "../api";
import type { VmDetails } from "../shapes";
import { connect, type Line } from "./line";
import { withoutInlineStyles } from "./strict";

// What xterm has not drawn yet. A guest that floods its console is not drawn in full, so that the page stays quick.
const PENDING_BYTES = 2 << 20;
const SCROLLBACK_LINES = 5000;

// xterm's own colours, of which dark blue and dark grey could not be read on black.
const THEME: ITheme = {
  background: "#0d1117",
  foreground: "#e6edf3",
  cursor: "#e6edf3",
  selectionBackground: "#3b5170",
  black: "#6e7681",
  blue: "#79b8ff",
  brightBlack: "#8b949e",
  red: "#ff7b72",
  green: "#56d364",
  yellow: "#e3b341",
  magenta: "#d2a8ff",
  cyan: "#56d4dd",
  white: "#c9d1d9",
};

// The operating system's controls that a guest has no use for here: title, links, clipboard, colours of the terminal, notifications.
const IGNORED_OSC = [0, 1, 2, 4, 7, 8, 9, 10, 11, 12, 52, 104, 110, 111, 112, 133, 777, 1337];

export interface Told {
  line: (line: Line) => void;
  problem: (problem: Problem | undefined) => void;
  // Is called when the reader leaves the terminal by its key.
  left: () => void;
}

export function openConsole(
  place: HTMLElement,
  vm: VmDetails,
  told: Told,
): { close: () => void; readAloud: (isOn: boolean) => void } {
  const restore = withoutInlineStyles();
  const terminal = new Terminal({
    allowProposedApi: false,
    linkHandler: { activate: () => {} },
    scrollback: SCROLLBACK_LINES,
    fontFamily: 'ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace',
    fontSize: 13,
    minimumContrastRatio: 4.5,
    theme: THEME,
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  for (const code of IGNORED_OSC) terminal.parser.registerOscHandler(code, () => true);
  terminal.open(place);
  terminal.textarea?.setAttribute("aria-label", `Console of ${vm.task}: what is typed goes to the guest`);
  // Ctrl-] as in qhost console, telnet and virsh: Tab is the guest's. AltGr, which counts as Ctrl and Alt, writes a bracket on many keyboards.
  terminal.attachCustomKeyEventHandler((event) => {
    const isLeave = event.ctrlKey && !event.altKey && (event.key === "]" || event.code === "BracketRight");
    if (!isLeave) return true;
    event.preventDefault();
    if (event.type === "keydown") told.left();
    return false;
  });
  const sizes = new ResizeObserver(() => fit.fit());
  sizes.observe(place);

  let pending = 0;
  let skipped = 0;
  let wasAttached = false;
  const connection = connect(vm, {
    bytes: (bytes) => {
      if (pending > PENDING_BYTES) {
        skipped += bytes.length;
        return;
      }
      if (skipped > 0) terminal.write(`\r\n\x1b[0m[${skipped} bytes were not drawn]\r\n`);
      skipped = 0;
      pending += bytes.length;
      terminal.write(bytes, () => (pending -= bytes.length));
    },
    begins: () => terminal.reset(),
    line: (line) => {
      terminal.options.disableStdin = line !== "attached";
      // A connection that is made again does not move the focus to the terminal.
      if (line === "attached" && !wasAttached) terminal.focus();
      wasAttached ||= line === "attached";
      told.line(line);
    },
    problem: told.problem,
  });
  terminal.onData(connection.type);
  terminal.onBinary(connection.typeBytes);
  return {
    close: () => {
      connection.close();
      sizes.disconnect();
      terminal.dispose();
      restore();
    },
    readAloud: (isOn) => (terminal.options.screenReaderMode = isOn),
  };
}
