package maildrop

import (
	"slices"
)

// Reason is a short code of why a login, a session or a delivery was refused. It is
// part of what the user sees, so that support can look it up: see [Meanings].
type Reason string

// Why a login or a session is refused.
const (
	ReasonNone        Reason = ""
	ReasonCredentials Reason = "credentials"
	ReasonLockout     Reason = "lockout"
	ReasonLoginDelay  Reason = "login-delay"
	ReasonNetwork     Reason = "network"
	ReasonDisabled    Reason = "account-disabled"
	ReasonBlocked     Reason = "override-block"
	ReasonAddress     Reason = "address-denied"
	ReasonSendOnly    Reason = "send-only"
	ReasonNoEvent     Reason = "no-event"
	ReasonOtherGroup  Reason = "event-group"
	ReasonLegacyEnded Reason = "legacy-ended"
	ReasonNoPurpose   Reason = "no-pop"
	ReasonRegion      Reason = "other-region"
	ReasonChanged     Reason = "changed"
	ReasonMoved       Reason = "moved"
	ReasonNoAccess    Reason = "no-access"
)

// What fails for a while. No error has these: a front says them.
const (
	ReasonUnavailable    Reason = "unavailable"
	ReasonNoListing      Reason = "no-listing"
	ReasonNoMessage      Reason = "no-message"
	ReasonNotRemoved     Reason = "not-removed"
	ReasonRemovalUnknown Reason = "removal-unknown"
	ReasonRestart        Reason = "restart"
	ReasonFull           Reason = "too-many-connections"
	ReasonFullIP         Reason = "ip-connections"
	ReasonFullNetwork    Reason = "network-connections"
	ReasonSessions       Reason = "too-many-sessions"
	ReasonSlowDown       Reason = "slow-down"
	ReasonLines          Reason = "lines-before-login"
	ReasonOctets         Reason = "octets-before-login"
)

// Response is a response code of POP3 (RFC 2449 section 8).
type Response string

// The response codes that are sent.
const (
	ResponseAuth       Response = "AUTH"        // RFC 3206 section 5: the credentials, and nothing else
	ResponseTemp       Response = "SYS/TEMP"    // RFC 3206 section 4: it passes; try again
	ResponsePerm       Response = "SYS/PERM"    // RFC 3206 section 4: it stays until somebody does something
	ResponseLoginDelay Response = "LOGIN-DELAY" // RFC 2449 section 8.1.1
)

// Meaning is all that is to be said of a reason.
type Meaning struct {
	Reason   Reason
	Response Response
	// Words are what the user is told: printable ASCII. In it {wait} stands for the
	// Error's Wait, such as "12 min", and {text} for its Text.
	Words    string
	User     string // what it means for the user
	Operator string // what it means for whoever helps him, and what to do
}

// MaxWords is the longest Words, in octets: with status, codes, a reference and what
// the placeholders stand for they fit into a reply line of 512 (RFC 2449 section 4).
const MaxWords = 200

// Meanings is the table of all reasons that a client can be refused for, in the order
// in which they are looked for at a login.
func Meanings() []Meaning { return slices.Clone(meanings) }

// Meaning looks the reason up. ok is false for one that isn't ours.
func (r Reason) Meaning() (m Meaning, ok bool) {
	i := slices.IndexFunc(meanings, func(m Meaning) bool { return m.Reason == r })
	if i < 0 {
		return Meaning{}, false
	}
	return meanings[i], true
}

// Words are the reason's words for the user; empty for one that isn't ours.
func (r Reason) Words() string {
	m, _ := r.Meaning()
	return m.Words
}

var meanings = []Meaning{
	{
		ReasonRegion, ResponsePerm,
		"this mailbox is served at {text}",
		"The mailbox is at home in another region, which takes no sessions from elsewhere. Enter the server that the answer names.",
		"The home region's cross_region is refuse. Tell the user its hostname.",
	},
	{
		ReasonNetwork, ResponsePerm,
		"POP is not allowed from your network; connect from your organization's network or ask your administrator",
		"Mail can be fetched from the organization's own networks only.",
		"The client's address is in none of the account's permitted networks (account show). The password wasn't looked at, and nothing was counted.",
	},
	{
		ReasonLockout, ResponseTemp,
		"too many wrong passwords for this user name; correct the password in your mail program, and try again in {wait}",
		"Somebody, perhaps a forgotten device, has tried several wrong passwords. Until the time is over even the right one is refused.",
		"Look for the guessing device among the last attempts of explain; lift the lock-out with address unlock. Names that don't exist are locked out alike.",
	},
	{
		ReasonCredentials, ResponseAuth,
		"wrong user name or password; the user name is the full mail address",
		"Enter the full mail address and the password anew.",
		"The password is wrong, or there is no such address: explain says which, the answer to the client never does.",
	},
	{
		ReasonDisabled, ResponsePerm,
		"this account is disabled; ask your administrator",
		"The organization's service has ended or is suspended.",
		"The account is disabled: account enable undoes it.",
	},
	{
		ReasonBlocked, ResponsePerm,
		"POP is switched off for your whole organization; ask your administrator",
		"The administrator has switched POP off for everybody.",
		"The POP Services Override is block: override set.",
	},
	{
		ReasonAddress, ResponsePerm,
		"POP is not allowed for this mailbox; ask your administrator",
		"The administrator doesn't allow POP for this mailbox.",
		"The address's access is deny, and the override isn't allow: address set --access.",
	},
	{
		ReasonSendOnly, ResponsePerm,
		"this domain only sends mail, so there is nothing to fetch; ask your administrator",
		"There is no mail to fetch.",
		"The domain's kind is send-only: domain set.",
	},
	{
		ReasonNoEvent, ResponsePerm,
		"no continuity event is on, so fetch your mail from your own mail server; if it is down ask your administrator to start an event",
		"The organization's own mail server is in service: fetch mail there.",
		"A hosted domain with the continuity package, and no event is on: continuity start.",
	},
	{
		ReasonOtherGroup, ResponsePerm,
		"the continuity event that is on does not cover this mailbox; ask your administrator",
		"A continuity event is on, for others.",
		"The events that are on are limited to groups that the address isn't in: continuity status, address set --group.",
	},
	{
		ReasonLegacyEnded, ResponsePerm,
		"POP for your organization has ended; fetch your mail from your own mail server or ask your administrator",
		"POP was a leftover of the past and has ended.",
		"The account's legacy date has passed: account set --legacy-until.",
	},
	{
		ReasonNoPurpose, ResponsePerm,
		"this domain has no POP service; fetch your mail from your own mail server or ask your administrator",
		"Mail of this domain is elsewhere.",
		"A hosted domain without the continuity package and without a legacy date.",
	},
	{
		ReasonLoginDelay, ResponseLoginDelay,
		"the last login is too recent; try again in {wait}, and let your mail program look for mail less often",
		"Nothing is wrong: the mail program asks more often than the organization allows.",
		"The account's login delay: account set --login-delay.",
	},
	{
		ReasonNoAccess, ResponsePerm,
		"access to this mailbox is not possible; ask your administrator",
		"Ask the administrator.",
		"A mailbox node refused for a reason that this front doesn't know: it runs a later version.",
	},
	{
		ReasonChanged, ResponsePerm,
		"the access to this mailbox was changed, please log in again",
		"The password was changed, or the address was removed, while mail was being fetched.",
		"As intended: a changed password ends the sessions that were open.",
	},
	{
		ReasonMoved, ResponseTemp,
		"this mailbox has just been moved within the service, please log in again",
		"The mail program connects again by itself, and finds the same messages.",
		"The account was moved to another region while mail was being fetched: account show.",
	},
	{
		ReasonUnavailable, ResponseTemp,
		"your mailbox can't be reached at the moment, please try again in a minute",
		"Trouble of the service's. Nothing is wrong with the password.",
		"The owner of the mailbox's shard didn't answer in time, or is overloaded: the front's log has the cause under the reference.",
	},
	{
		ReasonNoListing, ResponseTemp,
		"the listing can't be read at the moment, please try again in a minute",
		"Trouble of the service's; no mail is lost.",
		"As unavailable, after the login.",
	},
	{
		ReasonNoMessage, ResponseTemp,
		"this message can't be read at the moment, please try again in a minute",
		"Trouble of the service's; the other messages can be fetched.",
		"The store doesn't answer, or what it has is damaged: the front's log under the reference, then postern fsck.",
	},
	{
		ReasonNotRemoved, ResponseTemp,
		"the marked messages were not removed, please try again in a minute",
		"The messages are still there, and the mail program will remove them next time.",
		"The removal couldn't be written, and nothing was: the front's log under the reference.",
	},
	{
		ReasonRemovalUnknown, ResponseTemp,
		"it is not certain whether the marked messages were removed, please try again in a minute",
		"All of the marked messages are gone, or none. The next session shows it.",
		"The owner went away in the middle: the front's log under the reference.",
	},
	{
		ReasonRestart, ResponseTemp,
		"server is restarting, please reconnect",
		"The mail program connects again by itself.",
		"A front is being drained or stopped.",
	},
	{
		ReasonFull, ResponseTemp,
		"too many connections, please try again in a minute",
		"The service is overloaded at the moment.",
		"The front has as many connections as it takes: postern_front_connections_limit.",
	},
	{
		ReasonFullIP, ResponseTemp,
		"too many connections from your address, please close some or try again in a minute",
		"The devices behind this internet address have too many connections open at once.",
		"The client's IPv4 address has as many connections as it may have at all fronts together: front.limits.connections_per_ip.",
	},
	{
		ReasonFullNetwork, ResponseTemp,
		"too many connections from your network, please close some or try again in a minute",
		"The devices of this network have too many connections open at once.",
		"The client's IPv6 /64 has as many connections as it may have at all fronts together: front.limits.connections_per_64.",
	},
	{
		ReasonSessions, ResponseTemp,
		"too many sessions are open on this mailbox, please close some or try again in a minute",
		"Too many mail programs are fetching this mailbox at once.",
		"The mailbox has as many sessions at this front as it may: front.limits.sessions_per_address.",
	},
	{
		ReasonSlowDown, ResponseTemp,
		"too many wrong passwords from your network, please try again in {wait}",
		"Somebody in the same network is guessing passwords. Nothing is wrong with this password.",
		"The source has failed often, and as many logins wait as may: front.limits.delayed_logins. Look at postern_front_logins_delayed_seconds.",
	},
	{
		ReasonLines, ResponsePerm,
		"too many commands before login; please check your mail program",
		"Your mail program has sent many commands and never logged in. Another program, or another setting of this one, helps.",
		"A program that isn't for mail, or one that is broken: it has sent as many lines without a login as one connection may: front.limits.lines_before_login.",
	},
	{
		ReasonOctets, ResponsePerm,
		"too much sent before login; please check your mail program",
		"Your mail program has sent a lot and never logged in. Another program, or another setting of this one, helps.",
		"A program that isn't for mail, or one that is broken: it has sent as many octets without a login as one connection may: front.limits.octets_before_login.",
	},
}
