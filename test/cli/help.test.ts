/** Help is there for every command, whatever else the command demands. */
import { describe, expect, it } from 'vitest';
import { registry } from '../../lib/cli/registry.js';
import { qcow2 } from './run.js';

describe('COMMAND --help', () => {
  it.each(Object.keys(registry))('tells about %s', async (command) => {
    for (const letter of ['--help', '-h']) {
      const { code, stdout, stderr } = await qcow2([command, letter], '.');
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      expect(stdout).toMatch(new RegExp(`^usage: qcow2 ${command} `));
      expect(stdout).toMatch(new RegExp(`^Examples:\n  qcow2 ${command}`, 'm'));
    }
  });
});
