package sim

// mutants are what TestMutants breaks. When a text isn't found any more, the code has
// changed: find the place that keeps the promise now.
var mutants = []mutant{
	{
		name: "taken", promise: "an owner that finds its sequence taken is fenced", quick: true,
		replaced: []replacement{{
			"pkg/ledger/ledger.go",
			"\tcase err == nil:\n\t\tl.account(",
			"\tcase err == nil || (mutant(\"taken\") && errors.Is(err, errTaken)):\n\t\tl.account(",
		}},
	},
	{
		name: "fence", promise: "a take-over writes a fence", quick: true,
		replaced: []replacement{{
			"pkg/ledger/open.go",
			"\tif err == nil {\n\t\terr = o.fence(ctx)\n\t}",
			"\tif err == nil && (o.next == 1 || !mutant(\"fence\")) {\n\t\terr = o.fence(ctx)\n\t}",
		}},
	},
	{
		name: "nonce", promise: "an object that exists is ours only with our nonce", quick: true,
		replaced: []replacement{{
			"pkg/ledger/commit.go",
			"\tcase sameHeader(there[:n], object):",
			"\tcase mutant(\"nonce\") || sameHeader(there[:n], object):",
		}},
	},
	{
		name: "early", promise: "a delivery is answered when it is durable", quick: true,
		replaced: []replacement{{
			"pkg/shard/deliver.go",
			"\treturn s.commits.commit(ctx, r)\n",
			"\tif mutant(\"early\") {\n\t\t_, err := s.commits.submit(r)\n\t\treturn err\n\t}\n\treturn s.commits.commit(ctx, r)\n",
		}},
	},
	{
		name: "removal", promise: "a removal is answered when it is durable", quick: true,
		replaced: []replacement{{
			"pkg/shard/register.go",
			"\treturn s.commits.commit(ctx, &request{draft: ledger.Draft{Record: record}, octets: octets})",
			"\tif _, removal := record.(*ledger.Removal); removal && mutant(\"removal\") {\n\t\t_, err := s.commits.submit(&request{draft: ledger.Draft{Record: record}, octets: octets})\n\t\treturn err\n\t}\n" +
				"\treturn s.commits.commit(ctx, &request{draft: ledger.Draft{Record: record}, octets: octets})",
		}},
	},
	{
		name: "repeats", promise: "a new owner knows what was delivered", quick: true,
		replaced: []replacement{{
			"pkg/shard/shard.go",
			"\ts.config.Metrics.replay(",
			"\tif mutant(\"repeats\") {\n\t\ts.state.repeats = repeats{}\n\t}\n\ts.config.Metrics.replay(",
		}},
	},
}
