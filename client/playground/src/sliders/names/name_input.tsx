import { proposes } from "./vector_names";

interface Props {
  id: string;
  value: string;
  /** With a name that was chosen, or typed and left. */
  onChange: (name: string) => void;
}

/** The name of a vector. It is taken once it is whole. */
export function NameInput({ id, value, onChange }: Props) {
  const take = (event: Event & { currentTarget: HTMLInputElement }) => {
    const name = event.currentTarget.value.trim();
    if (name && name !== value) onChange(name);
    else event.currentTarget.value = value;
  };
  return <input id={id} {...proposes} value={value} onChange={take} />;
}
