'use strict';
/** `node launch.cjs FILE ARG...`: starts a double's TypeScript under Node 24, whatever Node (from 18) this is. */
const { launch } = require('../../../../bin/launch.cjs');

const [file] = process.argv.splice(2, 1);
launch(`vmm/firecracker/testing/${file}`);
