package rpc

import (
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// codeOf is the status code for those who know gRPC and not us: proxies, tools,
// dashboards. Our own callers read the Fault.
func codeOf(k maildrop.Kind) codes.Code {
	switch k {
	case maildrop.Busy, maildrop.Full:
		return codes.ResourceExhausted
	case maildrop.NotOwner, maildrop.Alias:
		return codes.FailedPrecondition
	case maildrop.Transient, maildrop.ReadOnly:
		return codes.Unavailable
	case maildrop.Maybe:
		return codes.Unknown
	case maildrop.NotFound:
		return codes.NotFound
	case maildrop.Denied:
		return codes.PermissionDenied
	case maildrop.Corrupt:
		return codes.DataLoss
	case maildrop.Canceled:
		return codes.Canceled
	case maildrop.Invalid:
		return codes.InvalidArgument
	case maildrop.Internal:
	}
	return codes.Internal
}

// ToStatus makes a status with a Fault of an error, so that its Kind reaches the
// caller. nil stays nil, and an error that is a status already stays what it is.
// A cause is for the caller's log, and cut to what a log line needs.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var e *maildrop.Error
	var already interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &e) && errors.As(err, &already) {
		return err
	}
	fault := faultOf(err)
	return statusOf(maildrop.Kind(fault.GetKind()), fault)
}

// faultOf is what the caller is told of an error.
func faultOf(err error) *posternv1.Fault {
	var e *maildrop.Error
	if !errors.As(err, &e) {
		e = &maildrop.Error{Kind: maildrop.KindOf(err)}
	}
	return &posternv1.Fault{
		Kind:      uint32(e.Kind),
		Reason:    clean(string(e.Reason), maxName),
		Text:      clean(e.Text, maxText),
		Primary:   clean(string(e.Primary), maildrop.MaxAddress),
		Cause:     clean(err.Error(), maxCause),
		WaitMilli: e.Wait.Milliseconds(),
	}
}

func statusOf(kind maildrop.Kind, fault *posternv1.Fault) error {
	s := status.New(codeOf(kind), kind.String())
	if detailed, err := s.WithDetails(fault); err == nil {
		s = detailed
	}
	return s.Err()
}

// clean shortens a text and makes it UTF-8, which a string on the wire must be.
func clean(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "?")
}

// FromStatus makes a maildrop.Error of what a gRPC call returned; nil stays nil.
// Without a Fault in it the transport broke, or the peer isn't one of ours:
// changes says that the call may have changed something by then, which makes
// an unknown outcome Maybe and not Transient. op is the error's Op.
func FromStatus(op string, err error, changes bool) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return &maildrop.Error{Op: op, Kind: maildrop.KindOf(err), Err: err}
	}
	for _, detail := range s.Details() {
		if fault, ok := detail.(*posternv1.Fault); ok {
			return errorOf(op, fault)
		}
	}
	return &maildrop.Error{Op: op, Kind: brokenKind(s.Code(), changes), Err: err}
}

func errorOf(op string, f *posternv1.Fault) error {
	kind := maildrop.Kind(f.GetKind())
	if f.GetKind() >= uint32(maildrop.Kinds) {
		kind = maildrop.Internal // of a later version of the service
	}
	return &maildrop.Error{
		Op: op, Kind: kind, Reason: maildrop.Reason(f.GetReason()), Text: f.GetText(),
		Wait: fromMilli(f.GetWaitMilli()), Primary: maildrop.Address(f.GetPrimary()), Err: errors.New(f.GetCause()),
	}
}

// brokenKind is the kind of a call that no Fault came back from.
func brokenKind(code codes.Code, changes bool) maildrop.Kind {
	switch code {
	case codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.OutOfRange:
		return maildrop.Internal // refused before anything was done
	default:
	}
	if changes {
		return maildrop.Maybe
	}
	switch code {
	case codes.Canceled, codes.DeadlineExceeded:
		return maildrop.Canceled
	case codes.ResourceExhausted: // a message over a limit: it will be so again
		return maildrop.Internal
	default: // also Internal and Unknown: streams that were reset say so
		return maildrop.Transient
	}
}

// canceled is the error of a call whose caller is gone, or whose writer failed.
func canceled(op string, err error) error {
	return &maildrop.Error{Op: op, Kind: maildrop.Canceled, Err: err}
}

func invalid(op, why string) error {
	return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: errors.New(why)}
}
