/** Real KVM counts this far in some milliseconds; one that emulates every instruction in the kernel needs minutes. */
const COUNT = 50_000_000;
const LOAD_AT = 0x10_0000;
const HEADER_BYTES = 64;
const SEGMENT_BYTES = 56;
/** A note's name, type and length, `Xen`, and an address of 8 bytes. */
const NOTE_BYTES = 12 + 4 + 8;

/**
 * A kernel that counts and then resets the machine by its keyboard controller: an ELF file with a PVH entry (elf(5); Xen's
 * PVH boot protocol: 32-bit protected mode, flat), whose few instructions mean the same in 64-bit mode, should it be entered
 * there.
 */
export function probeKernel(): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32LE(COUNT);
  const code = Buffer.concat([
    Buffer.from([0xfa]), // cli
    Buffer.from([0xb9]), // mov ecx, COUNT
    count,
    Buffer.from([0xff, 0xc9]), // dec ecx
    Buffer.from([0x75, 0xfc]), // jnz to the dec
    Buffer.from([0xb0, 0xfe]), // mov al, 0xfe
    Buffer.from([0xe6, 0x64]), // out 0x64, al: the keyboard controller pulls the reset line
    Buffer.from([0xf4, 0xeb, 0xfd]), // hlt, for ever
  ]);
  const codeAt = HEADER_BYTES + 2 * SEGMENT_BYTES + NOTE_BYTES;
  return Buffer.concat([
    header(),
    segment({ type: 1, flags: 5, offset: codeAt, address: LOAD_AT, bytes: code.length, align: 1 }),
    segment({
      type: 4,
      flags: 4,
      offset: HEADER_BYTES + 2 * SEGMENT_BYTES,
      address: 0,
      bytes: NOTE_BYTES,
      align: 4,
    }),
    note(),
    code,
  ]);
}

function header(): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  // 64-bit, little-endian, version 1.
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]).copy(bytes);
  bytes.writeUInt16LE(2, 16); // an executable
  bytes.writeUInt16LE(62, 18); // of x86-64
  bytes.writeUInt32LE(1, 20);
  bytes.writeBigUInt64LE(BigInt(LOAD_AT), 24); // entry
  bytes.writeBigUInt64LE(BigInt(HEADER_BYTES), 32); // where the segments stand
  bytes.writeUInt16LE(HEADER_BYTES, 52);
  bytes.writeUInt16LE(SEGMENT_BYTES, 54);
  bytes.writeUInt16LE(2, 56);
  return bytes;
}

function segment(of: {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly address: number;
  readonly bytes: number;
  readonly align: number;
}): Buffer {
  const bytes = Buffer.alloc(SEGMENT_BYTES);
  bytes.writeUInt32LE(of.type, 0);
  bytes.writeUInt32LE(of.flags, 4);
  const rest = [of.offset, of.address, of.address, of.bytes, of.bytes, of.align];
  rest.forEach((value, i) => bytes.writeBigUInt64LE(BigInt(value), 8 + 8 * i));
  return bytes;
}

/** XEN_ELFNOTE_PHYS32_ENTRY: where to enter. */
function note(): Buffer {
  const bytes = Buffer.alloc(NOTE_BYTES);
  bytes.writeUInt32LE(4, 0);
  bytes.writeUInt32LE(8, 4);
  bytes.writeUInt32LE(18, 8);
  bytes.write('Xen\0', 12, 'latin1');
  bytes.writeBigUInt64LE(BigInt(LOAD_AT), 16);
  return bytes;
}
