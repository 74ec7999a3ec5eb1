// What a guest does for the reader: a command by its agent, and a picture of its display.

import { useRef, useState } from "preact/hooks";

import { ask, part, post, Problem } from "../api";
import { act } from "../doings";
import type { ExecReport, VmDetails } from "../shapes";
import { seen, seenLines } from "../text";
import { Trouble } from "./Trouble";

export function Guest({ vm }: { vm: VmDetails }) {
  const [problem, setProblem] = useState<Problem | undefined>();
  const [report, setReport] = useState<ExecReport | undefined>();
  const [isPictured, setIsPictured] = useState(false);
  const canvas = useRef<HTMLCanvasElement>(null);
  const place = `/v1/vms/${part(vm.id)}`;

  const run = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const line = String(new FormData(event.currentTarget as HTMLFormElement).get("command") ?? "");
    setProblem(undefined);
    setReport(undefined);
    // A shell of the guest's takes the line apart, as its users expect.
    const body = JSON.stringify({ command: ["/bin/sh", "-c", line] });
    const headers = { "content-type": "application/json" };
    setReport(await act(`Run in ${seen(vm.task)}`, () => post<ExecReport>(`${place}/exec`, { body, headers }), setProblem));
  };
  const look = async (): Promise<void> => {
    setProblem(undefined);
    const draw = async (): Promise<void> => {
      const response = await ask(`${place}/screenshot`, { method: "POST" });
      const picture = await createImageBitmap(await response.blob());
      const element = canvas.current;
      if (!element) return;
      element.width = picture.width;
      element.height = picture.height;
      element.getContext("2d")?.drawImage(picture, 0, 0);
      setIsPictured(true);
    };
    await act(`Screenshot of ${seen(vm.task)}`, draw, setProblem);
  };
  return (
    <section class="panel">
      <header>
        <h2>Guest</h2>
        <div class="actions">
          <button type="button" onClick={() => void look()}>
            Screenshot
          </button>
        </div>
      </header>
      <form class="fields broad" aria-label="A command in the guest" onSubmit={(event) => void run(event)}>
        <div class="field">
          <label for="guest-command">Command, by the guest's /bin/sh</label>
          <input id="guest-command" name="command" required autocomplete="off" spellcheck={false} />
        </div>
        <div class="field actions-field">
          <button type="submit" class="primary">
            Run
          </button>
        </div>
      </form>
      {problem && <Trouble problem={problem} />}
      {report && <Output report={report} />}
      <canvas ref={canvas} class="screenshot" role="img" aria-label={`The display of ${seen(vm.task)}`} hidden={!isPictured} />
    </section>
  );
}

function Output({ report }: { report: ExecReport }) {
  const { exit_code, signal, stdout, stderr, truncated } = report;
  const ended = exit_code === null ? `ended by signal ${signal ?? "?"}` : `exit code ${exit_code}`;
  return (
    <div role="status">
      <p>
        <span class={`tag ${exit_code === 0 ? "good" : "bad"}`}>{ended}</span>
        {truncated && <span class="soft">The agent has left a part of the output out.</span>}
      </p>
      {stdout && (
        <pre tabIndex={0} aria-label="Standard output">
          {seenLines(stdout)}
        </pre>
      )}
      {stderr && (
        <pre tabIndex={0} aria-label="Standard error">
          {seenLines(stderr)}
        </pre>
      )}
    </div>
  );
}
