package rpc

import (
	"bytes"
	"io"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// split cuts octets into buffers at random, as the network does.
func split(t *rapid.T, b []byte) (s mem.BufferSlice) {
	for len(b) > 0 {
		n := rapid.IntRange(1, len(b)).Draw(t, "piece")
		s = append(s, mem.SliceBuffer(b[:n]))
		b = b[n:]
	}
	return s
}

// What we frame by hand the generated code reads, and the other way round, at
// every split point.
func TestFrameIsTheGeneratedMessage(t *testing.T) {
	c := newCodec()
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "data")
		ours, err := c.Marshal(&frame{field: fieldReadData, data: mem.SliceBuffer(data)})
		if err != nil {
			t.Fatal(err)
		}
		var generated posternv1.ReadResponse
		if err := proto.Unmarshal(ours.Materialize(), &generated); err != nil || !bytes.Equal(generated.Data, data) {
			t.Fatalf("generated code read %q (%v), sent %q", generated.Data, err, data)
		}
		theirs, _ := proto.Marshal(&posternv1.DeliverRequest{Data: data})
		f := frame{field: fieldDeliverData}
		if err := c.Unmarshal(split(t, theirs), &f); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if n, err := f.writeTo(&got); err != nil || n != uint64(len(data)) || !bytes.Equal(got.Bytes(), data) {
			t.Fatalf("got %d octets %q (%v), sent %q", n, got.Bytes(), err, data)
		}
	})
}

// A message's end, as the generated code writes it, is seen, and has no octets.
func TestEndOfAMessage(t *testing.T) {
	end, _ := proto.Marshal(&posternv1.ReadResponse{End: true})
	for field, want := range map[protowire.Number]bool{fieldReadData: true, fieldReadEnd: false} {
		f := frame{field: field}
		if err := f.decode(mem.BufferSlice{mem.SliceBuffer(end)}); err != nil {
			t.Fatal(err)
		}
		if n, err := f.writeTo(io.Discard); n != 0 || err != nil || f.end != want {
			t.Errorf("field %d: end %v, %d octets, %v", field, f.end, n, err)
		}
	}
}

// A later version may add fields, before ours or behind it.
func TestFrameOfALaterVersion(t *testing.T) {
	data := protowire.AppendTag(nil, fieldReadData, protowire.BytesType)
	data = protowire.AppendBytes(data, []byte("octets"))
	extra := protowire.AppendTag(nil, 15, protowire.Fixed32Type)
	extra = protowire.AppendFixed32(extra, 7)
	for name, b := range map[string][]byte{
		"before": append(bytes.Clone(extra), data...), "behind": append(bytes.Clone(data), extra...),
	} {
		f := frame{field: fieldReadData}
		if err := f.decode(mem.BufferSlice{mem.SliceBuffer(b)}); err != nil {
			t.Fatal(name, err)
		}
		got, _ := io.ReadAll(f.reader)
		if string(got) != "octets" {
			t.Errorf("a field %s ours: got %q", name, got)
		}
	}
}

// Whatever arrives, the decoders agree with the generated code about the octets
// and never panic.
func FuzzFrame(f *testing.F) {
	good, _ := proto.Marshal(&posternv1.ReadResponse{Data: []byte("octets")})
	f.Add(good)
	f.Add([]byte{0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := frame{field: fieldReadData}
		err := fr.decode(mem.BufferSlice{mem.SliceBuffer(b)})
		var generated posternv1.ReadResponse
		if theirs := proto.Unmarshal(b, &generated); theirs != nil {
			return // it may know more ways of being wrong
		}
		if err != nil {
			t.Fatalf("refused what the generated code takes: %v", err)
		}
		if got, _ := io.ReadAll(fr.reader); !bytes.Equal(got, generated.Data) {
			t.Fatalf("got %q, generated code %q", got, generated.Data)
		}
	})
}

// What a feed carries is what the generated code says, both ways, at every split point.
func TestLetterIsTheGeneratedMessage(t *testing.T) {
	c := newCodec()
	rapid.Check(t, func(t *rapid.T) {
		call := &posternv1.FeedCall{Number: rapid.Uint64().Draw(t, "number")}
		l := &letter{call: call}
		data := rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "data")
		switch rapid.IntRange(0, 2).Draw(t, "what") {
		case 0:
			call.What, data = &posternv1.FeedCall_Cancel{Cancel: true}, nil
		case 1:
			call.What, data = &posternv1.FeedCall_Accept{Accept: &posternv1.AcceptRequest{Address: rapid.StringMatching(`[a-z]{0,9}`).Draw(t, "to")}}, nil
		case 2:
			call.What = &posternv1.FeedCall_Envelope{Envelope: &posternv1.Envelope{Sender: data, Wire: uint64(len(data))}}
			if len(data) > 0 {
				l.body = mem.SliceBuffer(data)
			}
		}
		ours, err := c.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		var generated posternv1.FeedRequest
		if err := proto.Unmarshal(ours.Materialize(), &generated); err != nil || !bytes.Equal(generated.Data, data) || !proto.Equal(generated.Call, call) {
			t.Fatalf("generated code read %v (%v), sent %v with %q", &generated, err, call, data)
		}
		theirs, _ := proto.Marshal(&posternv1.FeedRequest{Call: call, Data: data})
		for name, b := range map[string][]byte{
			"the same": theirs, "of a later version": protowire.AppendVarint(protowire.AppendTag(theirs, 15, protowire.VarintType), 7),
			"with another field first": append(protowire.AppendVarint(protowire.AppendTag(nil, 15, protowire.VarintType), 7), theirs...),
		} {
			var p parcel
			if err := c.Unmarshal(split(t, b), &p); err != nil {
				t.Fatal(name, err)
			}
			size := p.size()
			if got, err := p.take(); err != nil || !bytes.Equal(got, data) || size != len(data) || !proto.Equal(&p.call, call) {
				t.Fatalf("%s: got %v with %q (%v), sent %v with %q", name, &p.call, got, err, call, data)
			}
			p.close()
		}
	})
}

// Whatever comes is a parcel or an error.
func FuzzParcel(f *testing.F) {
	f.Add([]byte{0x0a, 0x02, 0x08, 0x01, 0x12, 0x01, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p parcel
		if err := p.decode(mem.BufferSlice{mem.SliceBuffer(b)}); err != nil {
			return
		}
		var generated posternv1.FeedRequest
		if err := proto.Unmarshal(b, &generated); err != nil {
			t.Fatalf("taken, and the generated code says %v", err)
		}
		if octets, err := p.take(); err != nil || !bytes.Equal(octets, generated.GetData()) {
			t.Fatalf("%q, %v; the generated code has %q", octets, err, generated.GetData())
		}
		p.close()
	})
}
