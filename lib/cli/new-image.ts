/** What a command line says of an image to be made: the lists behind `-o`, and the backing file behind `-b` and `-F`. */
import { createOptionTables } from './create-options.js';
import { Failure } from './failure.js';
import { appendOptionList, asksForHelp, OptionValues } from './o-options.js';
import type { ImageFormat } from '../options.js';

export class NewImageArguments {
  /** What all `-o` say together; null without any. */
  #optionList: string | null = null;
  #backing: string | null = null;
  #backingFormat: string | null = null;

  /** Takes an option if it is one of these. @throws Failure for a list that is none */
  take(name: string, value: string): boolean {
    switch (name) {
      case 'options':
      case 'target-format-options':
        this.#optionList = appendOptionList(this.#optionList, value);
        return true;
      case 'backing':
        this.#backing = value;
        return true;
      case 'backing-format':
        this.#backingFormat = value;
        return true;
      default:
        return false;
    }
  }

  get hasOptions(): boolean {
    return this.#optionList !== null;
  }

  get hasBacking(): boolean {
    return this.#backing !== null;
  }

  /** Whether `-o help` is among it. */
  get asksForHelp(): boolean {
    return asksForHelp(this.#optionList);
  }

  /** The values behind `-o`. @throws Failure in the words of qemu-img for what the format does not have */
  listed(format: ImageFormat): OptionValues {
    const values = new OptionValues(createOptionTables[format]);
    if (this.#optionList !== null) values.addList(this.#optionList);
    return values;
  }

  /** The values behind `-o`, `-b` and `-F`. @throws as {@link listed}, and for a backing file of a raw image */
  values(format: ImageFormat): OptionValues {
    const values = this.listed(format);
    if (format === 'raw') this.#refuseBacking();
    if (this.#backing !== null) values.set('backing_file', this.#backing);
    if (this.#backingFormat !== null) values.set('backing_fmt', this.#backingFormat);
    return values;
  }

  #refuseBacking(): void {
    const words = "not supported for file format 'raw'";
    if (this.#backing !== null) throw new Failure(`Backing file ${words}`);
    if (this.#backingFormat !== null) throw new Failure(`Backing file format ${words}`);
  }
}
