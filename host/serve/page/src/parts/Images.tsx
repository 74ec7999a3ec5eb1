// Stored images.

import { ask, part } from "../api";
import { act } from "../doings";
import { to } from "../route";
import { isOperator } from "../session";
import type { Image } from "../shapes";
import { bytes, count, seen, short, time } from "../text";
import { ImageForm } from "./ImageForm";
import { question } from "./Modal";
import { Plain, type Column } from "./Plain";
import { Empty } from "./Trouble";

export function Images({ images, changed }: { images: Image[]; changed: () => void }) {
  const remove = async ({ sha256, source }: Image): Promise<void> => {
    const answer = await question({
      title: `Remove the image ${short(sha256)}?`,
      text: `A start that needs it fetches it again${source ? ` from ${seen(source)}` : ""}. Where a VM uses it, it stays.`,
      action: "Remove",
      isDanger: true,
    });
    if (!answer) return;
    await act(`Remove image ${short(sha256)}`, () => ask(`/v1/images/${part(sha256)}`, { method: "DELETE" }));
    changed();
  };
  const columns: Column<Image>[] = [
    { head: "Image", cell: ({ sha256 }) => <code title={sha256}>{short(sha256)}</code> },
    { head: "From", kind: "long", cell: ({ source }) => seen(source ?? "–") },
    { head: "Format", cell: ({ format }) => seen(format ?? "–") },
    { head: "On disk", kind: "number", cell: ({ disk_usage }) => bytes(disk_usage) },
    { head: "Fetched", cell: ({ fetched_at }) => (fetched_at ? <time dateTime={fetched_at}>{time(fetched_at)}</time> : "–") },
  ];
  if (isOperator.value) {
    columns.push(
      { head: "Fetched for", cell: ({ tenant }) => (tenant ? seen(tenant) : "the operator") },
      {
        head: "",
        cell: (image) => (
          <button
            type="button"
            class="danger"
            aria-label={`Remove image ${short(image.sha256)}`}
            onClick={() => void remove(image)}
          >
            Remove…
          </button>
        ),
      },
    );
  }
  return (
    <section class="panel">
      <header>
        <h2>Images</h2>
        <p class="soft">
          {count(images.length, "image")}, {bytes(images.reduce((sum, { disk_usage }) => sum + disk_usage, 0))} on disk
        </p>
      </header>
      {images.length > 0 ? (
        <Plain caption="Images" columns={columns} items={images} keyOf={({ sha256 }) => sha256} />
      ) : (
        <Empty>
          No image is stored. A <a href={to("start")}>start</a> fetches the one that its job names, and checks it.
        </Empty>
      )}
      {isOperator.value && <ImageForm changed={changed} />}
    </section>
  );
}
