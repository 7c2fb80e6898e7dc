#!/usr/bin/env node
/** The program as a process: its name, its words and its descriptors. */
import { basename } from 'node:path';
import { Descriptor } from './output.js';
import { runProgram } from './program.js';

const name = basename(process.argv[1] ?? '').replace(/\.(c?js|exe)$/, '');

void runProgram(process.argv.slice(2), {
  program: name === 'qemu-img' ? 'qemu-img' : 'qcow2',
  stdout: new Descriptor(1),
  stderr: new Descriptor(2),
}).then((exitCode) => {
  process.exitCode = exitCode;
});
