// Package sealed is a blob.Store that encrypts what it puts into another one.
// Who uses it sees keys, sizes and octets as of a store without encryption.
//
//   - Nothing of an object's content can be read without its shard's data key, and
//     nothing can be changed, cut off, added, moved within the object or to another
//     name: a read of it fails with ErrCorrupt.
//   - It hides neither the objects' names, nor how many there are, nor their sizes;
//     and who can write to the store can delete objects, or put back what had been
//     there under the same name.
//   - Create is as atomic as the inner store's: one stored object for each key, of
//     that name, sealed or not.
//
// # Keys
//
//	key-encryption key          data key                     object key
//	a keyset file, or a   wraps one a shard and    HKDF-256  one an object
//	key service's URI    ─────▶ generation         ────────▶ AES-256-GCM
//	                            <prefix>/key/…               (salt, header, name)
//
// New objects are sealed with the highest generation; each object says which is
// its own, so a new generation rewrites nothing. A new key-encryption key (Rewrap)
// puts a new wrap of each data key beside the one before and then deletes that.
//
//	<prefix>/key/<generation, 10 digits>                  the first wrap
//	<prefix>/key/<generation>-<wrap number, 4 digits>     the later ones; the highest counts
//
// # A sealed object, version 2 (numbers are little-endian)
//
//	┌────────┬───────────┬───────────┬─────┬───────────┐
//	│ header │ segment 0 │ segment 1 │  …  │ segment n │  each of 16 KiB of plaintext and
//	└────────┴───────────┴───────────┴─────┴───────────┘  its tag of 16; the last one shorter
//	  0  8 "PSTNSEAL"          object key: HKDF-SHA256(data key, salt,
//	  8  2 version               octets 0 to 23 and the object's key in the store)
//	 10  2 pads                nonce (12): seven of zero, the segment's number (4,
//	 12  4 generation            big-endian), 1 for the last segment, else 0
//	 16  4 CRC-32C of the rest of the header
//	 20  4 mirror              That is the STREAM construction, as in Tink's
//	 24 32 salt                AES256_GCM_HKDF; the sizes follow from the stored ones.
//
// A body that says again at its end what its beginning says (blob.Mirrored) is sealed as two
// sides, so that no segment has octets of both: damage in any octet leaves one of them. The
// gap before `mirror` isn't stored; `pads` times 16 octets of zero stand between the sides, so
// that the stored size is that of an object without sides. The header is mended where one
// of its octets is damaged, by its CRC; the seal proves the result. Version 1 has
// 16,384 at octet 16, zeros at 10 and 20, one side, and no mending.
//
// # A key object, version 1: twice this
//
//	 0  8 "PSTNDKEY"           the check is HKDF-SHA256 of the data key, with generation
//	 8  2 version                and prefix
//	10  2 zero                 the key is wrapped with all octets before, and the prefix,
//	12  4 generation             as associated data
//	16 16 check
//	32  2 length, and the name of the wrapping key: "keyset/<key id>" or a URI
//	 …  2 length, and the wrapped key
//	 …  4 CRC-32C of all before
//
// # Turning it on for a region that has mail
//
//  1. Open with Options.Plain: objects that don't begin as sealed ones are read as
//     they are, new ones are sealed. An owner from before still appends to the same
//     names, so the ledger's fence holds between it and its successor.
//  2. When Plain counts none any more (retention takes them), without it: from then
//     on a plain object is ErrCorrupt.
//
// Off again: not without moving the mail.
//
// # A new key-encryption key
//
//	key rotate FILE ─▶ the file to all nodes, restart them ─▶ key rewrap ─▶ old keys out of the file
//
// # Decisions
//
//   - 2026-11-23: segments by crypto/cipher and crypto/hkdf. Tink's streaming AEAD for
//     Go (v2.9.0, streamingaead/subtle/noncebased) has an io.Writer and an io.Reader and
//     no random access: a message in the middle of an object would cost all octets before
//     it. Tink does wrap the data keys, and reads keysets.
//   - 2026-11-23: plain objects are allowed by a switch that is not in the store. A
//     note there, "all is sealed since", can be deleted by whom it should stop; the
//     switch can't. While it is on, who writes to the store can slip plain objects in,
//     as before encryption. Without it, Open refuses to make the first key where
//     objects are: neither old mail nor the loss of all key objects goes unnoticed.
//   - 2026-11-23: sealed and plain objects have the same name. Refused: a suffix for
//     sealed ones, which would tell their size without a look into them. Two names are
//     two creations: while nodes are restarted with encryption, an old owner could
//     append at a sequence that the new one has fenced. So a list costs a read for
//     each object while plain ones are allowed, and none afterwards.
//   - 2026-11-23: which key a generation has, the store says. Who creates a key object
//     reads back what is there and uses that. So a creator that overslept (it saw no key,
//     others made one and wrapped it anew, the first wrap was deleted, and now it creates
//     that name) uses the others' key too; the wrap that it made has another check than the
//     newest one has, and is ignored.
//   - 2026-11-23: the check, besides the associated data: transit engines from before
//     they knew associated data ignore it, and a key object moved between shards would go unseen.
//   - 2026-11-23: an older generation that can't be unwrapped doesn't keep a shard from
//     opening; reads of its objects say what is missing. The newest must be there.
//   - 2026-11-23: of key services, Vault's and OpenBao's transit engine: a provider with
//     its own stores in its regions runs its own key service there. It adds 1.5 MB and
//     12 modules to the binary, AWS KMS 6.6 MB and 16. Another one is Service with
//     another registry.KMSClient.
//   - 2026-11-23: a keyset file is read once, at the start. Refused: reading it again
//     when a key is missing; a file that changed half-way through the nodes would then
//     work on some by chance.
//   - 2026-11-23: 1,024 objects' keys are kept for each store, and not their ciphers,
//     which take thirty times the memory. Making one costs a third of opening a segment.
//   - 2026-11-23: with a key service, opening a shard needs it, and an open shard does
//     not. Refused: data keys cached on a node's disk, which would be keys at rest beside
//     the mail. Who wants failover to hang on nothing else takes a keyset file.
package sealed
