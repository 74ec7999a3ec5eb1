// A VM's serial console: typed into where that is allowed, else only followed. The terminal is loaded here alone.

import { useEffect, useRef, useState } from "preact/hooks";

import { get, part, Problem } from "../api";
import type { Line } from "../console/line";
import { Heading } from "../parts/Heading";
import { Chip } from "../parts/Chip";
import { Loading, Trouble } from "../parts/Trouble";
import { useLoaded } from "../loaded";
import { route, to } from "../route";
import type { VmDetails } from "../shapes";
import { seen } from "../text";

const WORDS: Record<Line, string> = {
  connecting: "",
  attached: "what is typed goes to the guest",
  followed: "read only",
  lost: "the page tries again by itself",
  ended: "the VM has ended",
};

export function ConsoleScreen() {
  const id = route.value.path[1] ?? "";
  const { value: vm, problem, again } = useLoaded((signal) => get<VmDetails>(`/v1/vms/${part(id)}`, {}, signal), [id]);
  if (!vm) {
    return (
      <>
        <Heading>Console</Heading>
        {problem ? <Trouble problem={problem} retry={again} /> : <Loading what="the VM" />}
      </>
    );
  }
  return <Console vm={vm} key={vm.id} />;
}

function Console({ vm }: { vm: VmDetails }) {
  const place = useRef<HTMLDivElement>(null);
  const leave = useRef<HTMLAnchorElement>(null);
  const [line, setLine] = useState<Line>("connecting");
  const [problem, setProblem] = useState<Problem | undefined>();
  const [isLoaded, setLoaded] = useState(false);
  const [readsAloud, setReadsAloud] = useState(false);
  const opened = useRef<{ readAloud: (isOn: boolean) => void } | undefined>(undefined);

  useEffect(() => {
    let isGone = false;
    let close: (() => void) | undefined;
    import("../console/terminal")
      .then(({ openConsole }) => {
        if (isGone || !place.current) return;
        setLoaded(true);
        const console = openConsole(place.current, vm, {
          line: setLine,
          problem: setProblem,
          left: () => leave.current?.focus(),
        });
        opened.current = console;
        close = console.close;
      })
      .catch((error: unknown) => setProblem(Problem.of(error)));
    return () => {
      isGone = true;
      close?.();
    };
  }, [vm.id]);

  return (
    <div class="console">
      <div class="title">
        <Heading>Console of {seen(vm.task)}</Heading>
        <span class="soft" role="status">
          <Chip word={line} /> {WORDS[line]}
        </span>
        <div class="actions">
          <label class="check">
            <input
              type="checkbox"
              checked={readsAloud}
              onChange={(event) => {
                const isOn = event.currentTarget.checked;
                setReadsAloud(isOn);
                opened.current?.readAloud(isOn);
              }}
            />
            <span>For a screen reader</span>
          </label>
          <a class="button" href={to("vms", vm.id)} ref={leave}>
            Back to the VM
          </a>
        </div>
      </div>
      {problem && <Trouble problem={problem} />}
      <div class="tube" ref={place}>
        {!isLoaded && <Loading what="the terminal" />}
      </div>
      <p class="soft">
        <kbd>Ctrl</kbd>+<kbd>]</kbd> leaves the terminal. All other keys go to the guest.
      </p>
    </div>
  );
}
