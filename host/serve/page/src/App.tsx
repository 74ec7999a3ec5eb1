// The frame: at which host the reader is, as whom, where, and whether the connection lives.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";

import { act } from "./doings";
import { link, type Link } from "./events";
import { Doings } from "./parts/Doings";
import { Heading } from "./parts/Heading";
import { Keys } from "./parts/Keys";
import { QuestionDialog } from "./parts/Modal";
import { Loading, Trouble } from "./parts/Trouble";
import { route, to } from "./route";
import { ConsoleScreen } from "./screens/ConsoleScreen";
import { Decisions } from "./screens/Decisions";
import { DecisionScreen } from "./screens/DecisionScreen";
import { Login } from "./screens/Login";
import { Policies } from "./screens/Policies";
import { Start } from "./screens/Start";
import { Storage } from "./screens/Storage";
import { VmList } from "./screens/VmList";
import { VmScreen } from "./screens/VmScreen";
import { begin, caller, host, isOperator, logout, session, version } from "./session";
import { seen } from "./text";
import { watch } from "./vms";

interface Place {
  head: string;
  forOperators?: boolean;
}

const PLACES: Record<string, Place> = {
  vms: { head: "VMs" },
  start: { head: "Start" },
  decisions: { head: "Decisions" },
  policies: { head: "Policies", forOperators: true },
  storage: { head: "Storage" },
};

const LINKS: Record<Link, string> = { connecting: "◌ connecting", live: "● live", lost: "✕ connection lost" };

export function App() {
  useEffect(() => void begin(), []);
  const known = caller.value;
  useEffect(() => (known ? watch() : undefined), [known?.name]);
  const main = useRef<HTMLElement>(null);
  const path = route.value.path.join("/");
  const isKnown = session.value.state === "known";
  useAt(path, isKnown, main);

  const skip = (event: MouseEvent): void => {
    event.preventDefault();
    main.current?.focus();
  };
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      <Top />
      {link.value === "lost" && isKnown && (
        <p class="lost-bar" role="alert">
          The connection to the service is lost. What is shown may be old; the page tries again by itself.
        </p>
      )}
      <main id="main" ref={main} tabIndex={-1}>
        <Screen />
      </main>
      <Doings />
      <QuestionDialog />
      <Keys />
    </>
  );
}

function Screen(): JSX.Element {
  const now = session.value;
  if (now.state === "loading") return <Loading what="the page" />;
  if (now.state === "unknown") return <Login refused={now.problem} key={now.problem?.message ?? ""} />;
  if (now.state === "problem") return <Trouble problem={now.problem} retry={() => void begin()} />;
  const [name = "vms", id, more] = route.value.path;
  if (PLACES[name]?.forOperators && !isOperator.value) return <Nowhere why="This is for operators." />;
  switch (name) {
    // With the VM's id as a key, a screen shows nothing of the VM before.
    case "vms":
      return more === "console" ? <ConsoleScreen key={id} /> : id ? <VmScreen key={id} /> : <VmList />;
    case "start":
      return <Start />;
    case "decisions":
      return id ? <DecisionScreen key={id} /> : <Decisions />;
    case "policies":
      return <Policies />;
    case "storage":
      return <Storage />;
    default:
      return <Nowhere why="The page has no such screen." />;
  }
}

function Nowhere({ why }: { why: string }) {
  return (
    <>
      <Heading>Not here</Heading>
      <p>
        {why} <a href={to("vms")}>Go to the VMs</a>.
      </p>
    </>
  );
}

function Top() {
  const known = caller.value;
  const [name = "vms"] = route.value.path;
  const called = host.value?.attributes["unique.hostname"] ?? location.hostname;
  return (
    <header class="top">
      <a class="brand" href={to("vms")}>
        qhost
      </a>
      <span class="host">
        {seen(called)}
        {version.value && ` · ${version.value}`}
      </span>
      <nav aria-label="Screens">
        {known &&
          Object.entries(PLACES).map(([key, { head, forOperators }]) =>
            forOperators && !isOperator.value ? null : (
              <a href={to(key)} {...(key === name ? { "aria-current": "page" as const } : {})}>
                {head}
              </a>
            ),
          )}
      </nav>
      {known && (
        <span class="who">
          {seen(known.name)}
          {known.tenant ? `, tenant ${seen(known.tenant)}` : ""}
        </span>
      )}
      {/* A caller on the socket, or by a certificate, has no session to end. */}
      {known?.name.startsWith("token ") && (
        <button type="button" class="plain" onClick={() => void act("Log out", logout)}>
          Log out
        </button>
      )}
      {known && (
        <span class={`link ${link.value}`} role="status">
          {LINKS[link.value]}
        </span>
      )}
    </header>
  );
}

// Shows the reader's place in the title, and by the focus, except for the first screen and for filters.
function useAt(path: string, isKnown: boolean, main: { current: HTMLElement | null }): void {
  const [first] = useState({ path });
  // The focus is set before the next key is pressed, which may lead it elsewhere.
  useLayoutEffect(() => {
    const name = path.split("/")[0] || "vms";
    document.title = isKnown ? `${PLACES[name]?.head ?? "Not here"} · qhost` : "Log in · qhost";
    scrollTo(0, 0);
    if (first.path === path) return;
    first.path = "";
    (main.current?.querySelector("h1") ?? main.current)?.focus({ preventScroll: true });
  }, [path, isKnown]);
}
