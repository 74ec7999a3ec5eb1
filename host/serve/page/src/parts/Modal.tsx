// Dialogs: the browser's own, which holds the focus, closes by Escape and gives the focus back.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

interface ModalProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

export function Modal({ title, onClose, children }: ModalProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  return (
    <dialog ref={dialog} aria-label={title} onClose={onClose}>
      <div class="body">
        <h2>{title}</h2>
        {children}
      </div>
    </dialog>
  );
}

export interface Question {
  title: string;
  text: string;
  action: string;
  isDanger?: boolean;
  // A number that goes with the action, as a grace period.
  number?: { label: string; min: number; max: number; value?: number; step?: number; isOptional?: boolean };
  // A name that goes with the action, as of a copy.
  name?: { label: string; pattern: string; expected: string };
}

interface Asked extends Question {
  answer: (answer: Answer | undefined) => void;
}

export interface Answer {
  number?: number;
  name?: string;
}

const asked = signal<Asked | undefined>(undefined);

// Asks, and gives the answer; nothing if the dialog was cancelled.
export function question(question: Question): Promise<Answer | undefined> {
  return new Promise((answer) => {
    asked.value = { ...question, answer };
  });
}

export function QuestionDialog() {
  const input = useRef<HTMLInputElement>(null);
  const now = asked.value;
  if (!now) return null;
  const end = (answer: Answer | undefined): void => {
    asked.value = undefined;
    now.answer(answer);
  };
  const { title, text, action, isDanger, number, name } = now;
  const submit = (event: Event): void => {
    event.preventDefault();
    const value = input.current?.valueAsNumber ?? Number.NaN;
    if (name) end({ name: input.current?.value ?? "" });
    else end(Number.isNaN(value) ? {} : { number: value });
  };
  return (
    <Modal title={title} onClose={() => end(undefined)}>
      <form onSubmit={submit}>
        <p>{text}</p>
        {number && (
          <div class="field">
            <label for="question-number">{number.label}</label>
            <input
              id="question-number"
              type="number"
              ref={input}
              min={number.min}
              max={number.max}
              step={number.step ?? 1}
              required={!number.isOptional}
              {...(number.value === undefined ? {} : { defaultValue: String(number.value) })}
            />
          </div>
        )}
        {name && (
          <div class="field">
            <label for="question-name">{name.label}</label>
            <input id="question-name" ref={input} required pattern={name.pattern} title={name.expected} />
          </div>
        )}
        <div class="actions">
          <button type="button" onClick={() => end(undefined)}>
            Cancel
          </button>
          <button type="submit" class={isDanger ? "danger" : "primary"}>
            {action}
          </button>
        </div>
      </form>
    </Modal>
  );
}
