// A state, an outcome or a verdict: a mark and a word, so that colour is never all that tells it.

const TONES: Record<string, string> = {
  running: "good",
  ready: "good",
  allowed: "good",
  succeeded: "good",
  adopted: "good",
  attached: "good",
  created: "busy",
  fetching: "busy",
  starting: "busy",
  stopping: "busy",
  undecided: "busy",
  connecting: "busy",
  paused: "warn",
  "cannot-run": "warn",
  interrupted: "warn",
  "not-launched": "warn",
  "not-asked": "idle",
  exited: "idle",
  ended: "idle",
  followed: "idle",
  removed: "idle",
  failed: "bad",
  lost: "bad",
  denied: "bad",
  refused: "bad",
};

const MARKS: Record<string, string> = { good: "●", busy: "◐", warn: "▲", idle: "○", bad: "✕" };

export function Chip({ word }: { word: string }) {
  const tone = TONES[word.replaceAll(" ", "-")] ?? "idle";
  return (
    <span class={`chip ${tone}`}>
      <span aria-hidden="true">{MARKS[tone]}</span> {word.replaceAll("-", " ")}
    </span>
  );
}
