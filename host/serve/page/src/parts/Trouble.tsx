// A problem, and what to do about it.

import type { ComponentChildren } from "preact";

import { Problem } from "../api";
import { seen, seenLines } from "../text";

export function Trouble({ problem, retry }: { problem: Problem; retry?: () => void }) {
  const { detail, causes = [], hint, refused_by, problems = [] } = problem.details;
  // A job's problems are in the text too, for terminals.
  const text = problem.details.problems ? (detail.split("\n")[0] ?? "") : detail;
  return (
    <div class="trouble" role="alert">
      <p class="trouble-detail">
        {refused_by && !text.includes(refused_by) && <span class="tag bad">refused by {seen(refused_by)}</span>} {seenLines(text)}
      </p>
      {causes.length > 0 && (
        <ul class="causes">
          {causes.map((cause) => (
            <li>{seenLines(cause)}</li>
          ))}
        </ul>
      )}
      {problems.length > 0 && (
        <ul class="causes">
          {problems.map((one) => (
            <li>
              <code>{seen(one.pointer) || "/"}</code>: {seen(one.found)}; expected {seen(one.expected)}
              {one.hint && <Hint>{seen(one.hint)}</Hint>}
            </li>
          ))}
        </ul>
      )}
      {hint && <Hint>{seenLines(hint)}</Hint>}
      {retry && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Hint({ children }: { children: ComponentChildren }) {
  return (
    <p class="hint">
      <span class="hint-word">Hint</span> {children}
    </p>
  );
}

export function Loading({ what }: { what: string }) {
  return (
    <p class="loading" role="status">
      Loading {what}…
    </p>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}
