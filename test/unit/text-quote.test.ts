/** Names from images in messages: nothing in them may reach a terminal as anything but text. */
import { describe, expect, it } from 'vitest';
import { quote } from '../../lib/format/text.js';

describe('quoted names', () => {
  it('keep what is plain text, in any language', () => {
    expect(quote('disk 1.qcow2')).toBe('"disk 1.qcow2"');
    expect(quote('größe-尺寸')).toBe('"größe-尺寸"');
  });

  it.each(['\x1b[2J', '\x07', 'a\r\nError: fine', '\x7f', '\x9b31m', '\u202efdp.exe', '\u2066x', '\u2028'])(
    'escape %j',
    (name) => {
      expect(quote(name)).toMatch(/^"[\x20-\x7e]+"$/);
      expect(JSON.parse(quote(name))).toBe(name);
    },
  );
});
