package sim

import "github.com/postern-pop/postern/pkg/mutation"

// mutants are what TestMutants breaks. When a text isn't found any more, the code has
// changed: find the place that keeps the promise now.
var mutants = []mutant{
	{
		name: "taken", promise: "an owner that finds its sequence taken is fenced", quick: true,
		replaced: []mutation.Replacement{{
			File: "pkg/ledger/append.go",
			From: "\t\tcase taken.epoch >= l.epoch:\n",
			To:   "\t\tcase taken.epoch >= l.epoch && mutant(\"taken\"):\n\t\t\treturn nil\n\t\tcase taken.epoch >= l.epoch:\n",
		}},
	},
	{
		name: "fence", promise: "a take-over writes a fence", quick: true, ledger: true,
		replaced: []mutation.Replacement{{
			File: "pkg/ledger/open.go",
			From: "\t\terr = o.commit(ctx, o.object(o.next), object, headerSize, nil, o.log)",
			To:   "\t\tif o.next == 1 || !mutant(\"fence\") {\n\t\t\terr = o.commit(ctx, o.object(o.next), object, headerSize, nil, o.log)\n\t\t}",
		}},
	},
	{
		name: "nonce", promise: "an object that exists is ours only with our nonce", quick: true,
		replaced: []mutation.Replacement{{
			File: "pkg/ledger/commit.go",
			From: "\tcase bytes.Equal(there[:n], object[:head]):",
			To:   "\tcase mutant(\"nonce\") || bytes.Equal(there[:n], object[:head]):",
		}},
	},
	{
		name: "hole", promise: "after a long pause an owner asks whether a checkpoint covers what it wrote", ledger: true,
		replaced: []mutation.Replacement{{
			File: "pkg/ledger/proof.go",
			From: "\tif fresh {",
			To:   "\tif fresh || mutant(\"hole\") {",
		}},
	},
	{
		// The clock is the world's: see world.clock.
		name: "clock", promise: "the clock goes on while the machine sleeps", ledger: true,
	},
	{
		name: "past", promise: "a take-over makes sure that its fence isn't in the past", quick: true, ledger: true,
		replaced: []mutation.Replacement{{
			File: "pkg/ledger/open.go",
			From: "\tcase covering != \"\":\n\t\treturn fmt.Errorf(\"%w: our fence",
			To:   "\tcase covering != \"\" && !mutant(\"past\"):\n\t\treturn fmt.Errorf(\"%w: our fence",
		}},
	},
	{
		name: "order", promise: "an append is answered when all before it are durable", quick: true, ledger: true,
		replaced: []mutation.Replacement{{
			File: "pkg/ledger/append.go",
			From: "\tif f.before != nil {\n\t\t<-f.before.landed",
			To:   "\tif f.before != nil && !mutant(\"order\") {\n\t\t<-f.before.landed",
		}},
	},
	{
		name: "epoch", promise: "replay skips what an owner wrote behind the fence that ended it", ledger: true,
		replaced: []mutation.Replacement{{
			File: "pkg/ledger/replay.go",
			From: "\tif got.header.epoch < o.epoch {",
			To:   "\tif got.header.epoch < o.epoch && !mutant(\"epoch\") {",
		}},
	},
	{
		name: "stay", promise: "a ledger object stays for an hour after a checkpoint covers it", ledger: true,
		replaced: []mutation.Replacement{{
			File: "pkg/ledger/space.go",
			From: "\t\tif now-c.since >= keepCovered {",
			To:   "\t\tif now-c.since >= keepCovered || mutant(\"stay\") {",
		}},
	},
	{
		name: "early", promise: "a delivery is answered when it is durable", quick: true,
		replaced: []mutation.Replacement{{
			File: "pkg/shard/deliver.go",
			From: "\tr.draft.Record = &d\n\treturn s.commits.commit(ctx, r)\n",
			To:   "\tr.draft.Record = &d\n\tif mutant(\"early\") {\n\t\t_, err := s.commits.submit(r)\n\t\treturn err\n\t}\n\treturn s.commits.commit(ctx, r)\n",
		}},
	},
	{
		name: "removal", promise: "a removal is answered when it is durable", quick: true,
		replaced: []mutation.Replacement{{
			File: "pkg/shard/register.go",
			From: "\treturn s.commits.commit(ctx, &request{draft: ledger.Draft{Record: record}, octets: octets, passes: passes})",
			To: "\tif _, removal := record.(*ledger.Removal); removal && mutant(\"removal\") {\n\t\t_, err := s.commits.submit(&request{draft: ledger.Draft{Record: record}, octets: octets, passes: passes})\n\t\treturn err\n\t}\n" +
				"\treturn s.commits.commit(ctx, &request{draft: ledger.Draft{Record: record}, octets: octets, passes: passes})",
		}},
	},
	{
		name: "repeats", promise: "a new owner knows what was delivered", quick: true,
		replaced: []mutation.Replacement{{
			File: "pkg/shard/shard.go",
			From: "\ts.config.Metrics.replay(",
			To:   "\tfor _, box := range s.state.mailboxes {\n\t\tfor i := range box.messages {\n\t\t\tif mutant(\"repeats\") {\n\t\t\t\tbox.messages[i].repeat = 0\n\t\t\t}\n\t\t}\n\t}\n\ts.config.Metrics.replay(",
		}},
	},
	{
		name: "stale", promise: "an owner that was replaced answers from the past for a second at most",
		replaced: []mutation.Replacement{{
			File: "pkg/shard/shard.go",
			From: "\tif time.Since(s.born)-time.Duration(s.proved.Load()) < proofAge {",
			To:   "\tif mutant(\"stale\") || time.Since(s.born)-time.Duration(s.proved.Load()) < proofAge {",
		}},
	},
	{
		name: "pack", promise: "an object is deleted when the record of its copy is durable", quick: true,
		replaced: []mutation.Replacement{
			{
				File: "pkg/shard/move.go",
				From: "\tif err := s.write(ctx, record, int64(ledger.Draft{Record: record}.Size())); err != nil {\n\t\treturn err\n\t}\n",
				To:   "\tif mutant(\"pack\") {\n\t\tgo s.write(ctx, record, int64(ledger.Draft{Record: record}.Size()))\n\t\ts.mutantMoved = true\n\t} else if err := s.write(ctx, record, int64(ledger.Draft{Record: record}.Size())); err != nil {\n\t\treturn err\n\t}\n",
			},
			{
				File: "pkg/shard/move.go",
				From: "\t\tgathered := s.gather(w, horizon)\n\t\tif len(gathered) == 0 {",
				To:   "\t\tgathered := s.gather(w, horizon)\n\t\tif len(gathered) == 0 || s.mutantMoved {",
			},
			{
				File: "pkg/shard/space.go",
				From: "return sequence > horizon || v.kept[sequence] })",
				To:   "return sequence > horizon || (v.kept[sequence] && !s.mutantMoved) })\n\ts.mutantMoved = false",
			},
			{
				File: "pkg/shard/shard.go",
				From: "type Shard struct {\n",
				To:   "type Shard struct {\n\tmutantMoved bool\n",
			},
		},
	},
}
