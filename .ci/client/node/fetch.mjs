// The npm package node-pop3, by its stream of octets: its strings are UTF-8.
// See textproto for arguments and environment.
import {createWriteStream, readFileSync} from 'node:fs';
import {pipeline} from 'node:stream/promises';
import Pop3Command from 'node-pop3';

const {POP_HOST: host, POP_PORT, POP_USER: user, POP_PASSWORD: password, POP_CA} = process.env;
const [dir, mode] = process.argv.slice(2);
const pop = new Pop3Command({user, password, host, port: Number(POP_PORT), tls: true, timeout: 60000, tlsOptions: {ca: readFileSync(POP_CA)}});
const sizes = await pop.LIST();
for (const [n] of sizes) {
  const [, octets] = await pop.command('RETR', n);
  await pipeline(octets, createWriteStream(`${dir}/${n.padStart(3, '0')}`));
  if (mode === 'delete') {
    await pop.DELE(n);
  }
}
await pop.QUIT();
