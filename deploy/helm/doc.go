// Package helm is the chart of one region, in postern/, and its tests. They render it
// by helm itself, and start what it renders; and what ../compose.yaml says, too.
//
//	regions/eu.yaml ─┬─ pkg/config ── postern front --config …
//	                 └─ values.schema.json ── templates ── front.yaml in a ConfigMap
//
// # Decisions
//
//   - 2026-11-25: the region's file is the first values file as it is, its keys at the
//     top, so that nothing is written twice and nothing is converted. Refused: a key
//     region above them, for which every region's file would have to be wrapped.
//   - 2026-11-25: values have the names of Postern's files for what is Postern's, and
//     those of Kubernetes for what is Kubernetes's. One spelling for both would
//     have made either unfindable in its documentation.
//   - 2026-11-25: paths below storage become keys of one Secret, under their last part.
//     The same file then serves a machine, where the paths are, and a cluster, where
//     they aren't.
//   - 2026-11-25: the chart makes no Secret. Whatever makes one in a template makes another
//     one at the next rendering, or needs to look into the cluster.
//   - 2026-11-25: one identity for each role, not for each pod: cert-manager makes
//     certificates for names that are known beforehand. What a process may do goes by its
//     role and region; its own name, for the log and for owners of shards, comes by
//     --name from the pod's.
//   - 2026-11-25: no startup probe. A process that waits for etcd or its store is alive, and
//     would be killed for it just when many of them wait.
//   - 2026-11-25: before SIGTERM, fronts and intakes sleep: load balancers go on sending
//     for a while to a pod that is leaving, and a front that has stopped listening would
//     refuse them. Mailbox nodes don't: they are found by etcd, and SIGTERM hands their
//     shards over.
//   - 2026-11-25: nodes have no volume claims. Nothing of theirs has to outlive them,
//     and a StatefulSet's claims can't be changed later.
package helm
