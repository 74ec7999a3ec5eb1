// The login, for a caller that the service does not know.

import { useState } from "preact/hooks";

import { Problem } from "../api";
import { Heading } from "../parts/Heading";
import { Trouble } from "../parts/Trouble";
import { login } from "../session";

export function Login({ refused }: { refused: Problem | undefined }) {
  const [problem, setProblem] = useState(refused);
  const [isUnderWay, setUnderWay] = useState(false);
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const token = new FormData(form).get("token");
    setUnderWay(true);
    try {
      await login(String(token ?? "").trim());
    } catch (error) {
      setProblem(Problem.of(error));
      form.querySelector("input")?.focus();
    } finally {
      setUnderWay(false);
    }
  };
  return (
    <form class="panel login" onSubmit={(event) => void submit(event)}>
      <Heading>Log in to {location.hostname}</Heading>
      <div class="field">
        <label for="token">Token</label>
        <input
          id="token"
          name="token"
          type="password"
          autocomplete="current-password"
          required
          autofocus
          spellcheck={false}
          aria-invalid={problem ? "true" : undefined}
        />
      </div>
      <p class="soft">
        An operator of this host gives tokens out. A token is kept as a cookie of this browser's session, and no script reads it.
      </p>
      {problem && <Trouble problem={problem} />}
      <button class="primary" type="submit" disabled={isUnderWay}>
        {isUnderWay ? "Logging in…" : "Log in"}
      </button>
    </form>
  );
}
