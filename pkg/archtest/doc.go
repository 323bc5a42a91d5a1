// Package archtest holds the floor plan against the code: which room may
// import which, and through which rooms the outside world is reached. It has
// tests only.
//
// The plan keeps data flowing one way. Protocols know the nouns and nothing of
// storage; policy is pure; etcd, memberlist, gRPC and the object store are each
// reached through one room, so that each can be replaced, or made hostile in a
// test, in one place.
package archtest
