/** Command lines are taken apart as GNU getopt_long does. */
import { describe, expect, it } from 'vitest';
import { HelpWanted } from '../../lib/cli/failure.js';
import { CommandLine } from '../../lib/cli/getopt.js';

const specs = [
  { name: 'format', letters: 'f', argument: 'FMT', help: '' },
  { name: 'force-share', letters: 'U', help: '' },
  { name: 'output', argument: 'OFMT', help: '' },
  { name: 'out', help: '' },
  { name: 'quiet', letters: 'qs', help: '' },
  { name: 'help', letters: 'h', help: '' },
] as const;

function parse(...words: string[]): { options: string[]; positionals: string[] } {
  const line = new CommandLine(specs, words);
  const options = [...line].map(({ name, value }) => `${name}=${value}`);
  return { options, positionals: line.positionals };
}

describe('a command line', () => {
  it('may have options anywhere, up to a lone --', () => {
    expect(parse('a', '-q', 'b', '--output', 'json', '--', '-q', '--')).toEqual({
      options: ['quiet=', 'output=json'],
      positionals: ['a', 'b', '-q', '--'],
    });
  });

  it('may bundle letters; an argument is attached or follows', () => {
    expect(parse('-qUfraw', '-sf', 'qcow2', '-').options).toEqual([
      'quiet=',
      'force-share=',
      'format=raw',
      'quiet=',
      'format=qcow2',
    ]);
    expect(parse('-', '-f', '-q')).toEqual({ options: ['format=-q'], positionals: ['-'] });
  });

  it('may abbreviate a long name while only one fits; a full name always fits', () => {
    expect(parse('--form=raw', '--forc', '--outp=', '--out').options).toEqual([
      'format=raw',
      'force-share=',
      'output=',
      'out=',
    ]);
  });

  it.each([['-z'], ['-qz'], ['--for'], ['--nope'], ['--nope=1'], ['--force-share=1'], ['---']])(
    '%j is not recognized',
    (word) => {
      expect(() => parse('a', word, 'b')).toThrow(`unrecognized option '${word}'`);
    },
  );

  it.each([['-f'], ['-qf'], ['--format'], ['--outp']])('%j wants an argument', (word) => {
    expect(() => parse('a', word)).toThrow(`missing argument for option '${word}'`);
  });

  it('yields what comes before a mistake', () => {
    const seen: string[] = [];
    expect(() => {
      for (const { name } of new CommandLine(specs, ['-q', '-U', '-z'])) seen.push(name);
    }).toThrow();
    expect(seen).toEqual(['quiet', 'force-share']);
  });

  it('asks for help wherever -h stands before a mistake', () => {
    expect(() => parse('a', '-qh', '-z')).toThrow(HelpWanted);
  });

  it('may stop at the first word that is no option', () => {
    const line = new CommandLine(specs, ['-q', 'info', '-z', '--', 'x'], { stopAtOperand: true });
    expect([...line]).toEqual([{ name: 'quiet', value: '' }]);
    expect(line.positionals).toEqual(['info', '-z', '--', 'x']);
  });
});
