// Command postern is Postern: the roles of a cluster, a region on one machine,
// a demo of everything, and the operator's commands.
//
//	front, intake, mailbox   one process of a cluster, from a configuration file
//	standalone               one region in one process
//	demo                     five regions on this machine
//	account, domain, …       an operator's commands, through a gateway
//	drill                    harm to a running cluster, and what its users notice
//
// A role is wired in the file that has its name; standalone wires the same
// functions into one process.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/drill"
	"github.com/postern-pop/postern/pkg/movein"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2 // the command line or a configuration file is wrong
)

// cli is the command line.
type cli struct {
	Front      frontCmd      `cmd:"" group:"Servers" help:"Serve mail clients of a region (POP3S), and be its gateway."`
	Intake     intakeCmd     `cmd:"" group:"Servers" help:"Take in mail for a region (LMTP)."`
	Mailbox    mailboxCmd    `cmd:"" group:"Servers" help:"Keep mailboxes of a region."`
	Standalone standaloneCmd `cmd:"" group:"Servers" help:"Run one region in one process, on this machine."`
	Demo       demoCmd       `cmd:"" group:"Servers" help:"Run five regions on this machine, to try things out."`

	Account    accountCmd    `cmd:"" group:"Operators" help:"Customers."`
	Domain     domainCmd     `cmd:"" group:"Operators" help:"Their domains."`
	Address    addressCmd    `cmd:"" group:"Operators" help:"Who may log in."`
	Continuity continuityCmd `cmd:"" group:"Operators" help:"Continuity events: start, schedule, extend, end, status."`
	Override   overrideCmd   `cmd:"" group:"Operators" help:"The POP Services Override."`
	Node       nodeCmd       `cmd:"" group:"Operators" help:"A region's mailbox nodes."`
	Shard      shardCmd      `cmd:"" group:"Operators" help:"A region's shards."`
	Explain    explainCmd    `cmd:"" group:"Operators" help:"Why a user can or cannot log in, and what the code of a refusal means."`
	Import     importCmd     `cmd:"" group:"Operators" help:"Move a maildrop in from another server: a Maildir or an mbox."`

	Drill   drillCmd   `cmd:"" group:"Tools" help:"Prove on a running cluster what it promises: kill a node under load, and check that nothing is lost."`
	Deliver deliverCmd `cmd:"" group:"Tools" help:"Hand a message to an intake."`
	Store   storeCmd   `cmd:"" group:"Tools" help:"Look at where mail is at rest."`
	Fsck    fsckCmd    `cmd:"" group:"Tools" help:"Verify all that a region has stored, while it is in use."`
	Ledger  ledgerCmd  `cmd:"" group:"Tools" help:"Look at shards' histories."`
	Export  exportCmd  `cmd:"" group:"Tools" help:"Write a mailbox as a Maildir, out of the region's store."`
	Key     keyCmd     `cmd:"" group:"Tools" help:"The keys that mail at rest is encrypted by."`
	Config  configCmd  `cmd:"" group:"Tools" help:"Look at configuration files."`
	Version versionCmd `cmd:"" group:"Tools" help:"Say which build this is."`

	Init      initCmd      `cmd:"" group:"Tools" help:"Make the certificates and keys that a region begins with."`
	Roundtrip roundtripCmd `cmd:"" group:"Tools" help:"Deliver a message to a test address, fetch it, delete it: does a region work?"`
}

func main() { os.Exit(command(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// command runs one command line and returns the exit code.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	exited := -1
	parser, err := kong.New(&cli{},
		kong.Name("postern"),
		kong.Description("A multi-region POP3S gateway cluster."),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"uid_format": movein.DefaultUIDFormat, "drills": strings.Join(drill.Names(), ",")},
	)
	if err != nil {
		fmt.Fprintln(stderr, "postern:", err)
		return exitFailed
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "postern: %v\nTry: postern --help\n", err)
		return exitUsage
	}
	if err = parsed.Run(); err == nil {
		return 0
	}
	var problems config.Problems
	if errors.As(err, &problems) {
		fmt.Fprintln(stderr, problems)
		return exitUsage
	}
	fmt.Fprintln(stderr, "postern:", err)
	return exitFailed
}

// configCmd has the commands about configuration files.
type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Check a role's configuration file, and the region file that it names."`
}

type configCheckCmd struct {
	File string `arg:"" help:"The file."`
}

// Run prints ok, or fails with all that is wrong.
func (c *configCheckCmd) Run(k *kong.Kong) error {
	if _, err := config.Load(c.File); err != nil {
		return err
	}
	_, err := fmt.Fprintln(k.Stdout, "ok")
	return err
}

type versionCmd struct{}

// Run prints the build.
func (versionCmd) Run(k *kong.Kong) error {
	b := thisBuild()
	_, err := fmt.Fprintf(k.Stdout, "postern %s (revision %s, %s)\n", b.version, b.revision, b.goVersion)
	return err
}

// build is which build this is.
type build struct{ version, revision, goVersion string }

func thisBuild() build {
	b := build{version: "unknown", revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.version, b.goVersion = info.Main.Version, info.GoVersion
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			b.revision = setting.Value
		}
	}
	return b
}
