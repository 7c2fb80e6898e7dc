/** JSON on the command line, whole and broken, beside the real qemu-img. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../support/pattern.js';
import { comparable } from './comparable.js';
import { makeDirectory, qcow2, qemuImg, removeDirectories, tool } from './run.js';

let directory: string;
beforeAll(() => {
  directory = makeDirectory();
  tool('qemu-img', ['create', '-q', '-f', 'qcow2', 'disk', '1M'], directory);
});
afterAll(() => removeDirectories(directory));

async function expectSame(args: readonly string[]): Promise<void> {
  const theirs = comparable(await qemuImg(args, directory));
  // Where QEMU prints control characters as they are, we show them.
  theirs.stderr = theirs.stderr.replaceAll(/[\t\b]/g, (char) => (char === '\t' ? '\\x09' : '\\x08'));
  expect(comparable(await qcow2(args, directory)), JSON.stringify(args)).toEqual(theirs);
}

const whole = '{"driver":"qcow2", "file":{"driver":"file","filename":"disk"}}';

describe('a name in JSON', () => {
  it.each([
    whole,
    whole.replaceAll('"', "'"),
    `\n {'driver' :"qcow2",\t'file.filename':'d\\u0069sk'} `,
    String.raw`{"driver":"\"\\\/\b\u00e9\ud83d\ude00'"}`,
    String.raw`{'driver':'\'"'}`,
    '', ' ', 'x', 'nul', 'null', 'true', '1', '-1.5e-3', '"x"', '[1]', '{}', '[', ']', '{', '}', '[]]', '[}', '{]', '{,}', '[,]', '[1 2]',
    '{"a":}', '{"a":1,}', '{"a" 1}', '{"a":1', '{"a":1,', '{"a":[1,2}', '{"a":1]', '{"a":1 "b":2}', '{"a":1,"b"}', '{"a"', '{"a":tru}',
    '{a:1}', '{1:2}', '{true:2}', '{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', '{"a":1}{"b":2}', '{"a":1},', '{"a":1} "x', '{"a":1}x',
    '{"a":01}', '{"a":-}', '-', '-01', '{"a":1.}', '{"a":1e}', '{"a":1e+}', '{"a":+1}', '{"a":.5}', '{"a":--1}', '{"a":1-2}', '{"a":1a}',
    '{"a":"x', "{'a':'x", '"\\', '"\\"', '{"a":"x\ty"}', '{"a":"\\q"}', '{"a":"\\u12"}', '{"a":"\\ud800"}', '{"a":"\\ud800x"}',
    '{"a":NaN}', '{"a":tr.e}', '{"a":@}', '{"a" 1 @}', '{"a":1]@', '{"a":/**/1}', '{"a":99999999999999999999999}', '{"a":[{"b":[]}]}',
    '['.repeat(1024), '['.repeat(1025), '{"a":['.repeat(600),
  ])('is read as QEMU reads it: %s', (text) => expectSame(['info', `json:${text}`])); // prettier-ignore

  it('is read as QEMU reads it, whatever is struck out of it or put in', async () => {
    const random = new Random(20261126);
    const names = '{"a":"b", "c": {"d":[1,{"e":null}, -2.5e3],"f":"\\n"},"g":true}';
    const pieces = [
      '"',
      "'",
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '\\',
      '1',
      '-',
      '.',
      'e',
      'null',
      'x',
      ' ',
      '0',
    ] as const;
    for (let run = 0; run < 60; run += 1) {
      let text = random.chance(0.3) ? names.replaceAll('"', "'") : names;
      for (let changes = random.between(1, 3); changes > 0; changes -= 1) {
        const at = random.below(text.length);
        const length = random.below(3);
        text = text.slice(0, at) + (random.chance(0.6) ? random.pick(pieces) : '') + text.slice(at + length);
      }
      await expectSame(['info', `json:${text}`]);
    }
  });
});

describe('an object in JSON', () => {
  it.each([
    '{"qom-type":"secret","id":"s","data":"abc"}',
    "{'qom-type':'secret','id':'s','data':'abc'}",
    '{', '{}', '{"a":"1"}', '{"qom-type":"secret","id":"s","data":1}', '{"qom-type":"secret","id":"s","data":{"x":1}}',
    '{"qom-type":"secret","id":"s","qom-type":"secret"}', '{"qom-type":"secret","id":"s","data":"x"} y', '{"qom-type":1}',
  ])('is read as QEMU reads it: %s', (text) => expectSame(['info', '--object', text, 'disk'])); // prettier-ignore
});
