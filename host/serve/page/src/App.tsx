// The frame: where the reader is, at which host, and whether the connection lives.

import { useEffect, useRef } from "preact/hooks";

import { link } from "./events";
import { Loading, Trouble } from "./parts/Trouble";
import { route, to } from "./route";
import { VmList } from "./screens/VmList";
import { begin, caller, isOperator, session, version } from "./session";
import { watch } from "./vms";

const SCREENS: Record<string, { head: string; screen: () => preact.JSX.Element; forOperators?: boolean }> = {
  vms: { head: "VMs", screen: VmList },
};

export function App() {
  useEffect(() => void begin(), []);
  const known = caller.value;
  useEffect(() => (known ? watch() : undefined), [known?.name]);
  const name = route.value.path[0] ?? "vms";
  const found = SCREENS[name];
  const Screen = found?.screen;
  const main = useRef<HTMLElement>(null);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); main.current?.focus(); }}>Skip to the content</a>
      <header class="top">
        <a class="brand" href={to("vms")}>qhost</a>
        <span class="host">{location.hostname} {version.value}</span>
        <nav aria-label="Screens">
          {Object.entries(SCREENS).map(([key, { head, forOperators }]) =>
            forOperators && !isOperator.value ? null : <a href={to(key)} aria-current={key === name ? "page" : undefined}>{head}</a>)}
        </nav>
        <span class={`link ${link.value}`} role="status">{link.value}</span>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        {session.value.state === "loading" ? <Loading what="the page" /> : session.value.state === "problem" ? <Trouble problem={session.value.problem} /> : known && Screen ? <Screen /> : <p>?</p>}
      </main>
    </>
  );
}
