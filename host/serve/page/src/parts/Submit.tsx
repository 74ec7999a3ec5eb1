// The end of a form: its button, and the problem if the request was not done.

import type { Problem } from "../api";
import { Trouble } from "./Trouble";

export function Submit({ action, problem }: { action: string; problem: Problem | undefined }) {
  return (
    <>
      <div class="field actions-field">
        <button type="submit" class="primary">
          {action}
        </button>
      </div>
      {problem && (
        <div class="whole">
          <Trouble problem={problem} />
        </div>
      )}
    </>
  );
}
