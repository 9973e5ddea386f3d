import { Dialog } from "../parts/dialog";
import { words } from "../strings";
import { KeyForm } from "./key_form";

export function KeyDialog({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title={words.key.title} onClose={onClose}>
      <KeyForm onDone={onClose} />
    </Dialog>
  );
}
