package rpc

import (
	"fmt"
	"strings"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// adminPrefix begins the methods of the service that operators call.
const adminPrefix = "/postern.v1.Admin/"

// regionPrefix likewise, for one region's nodes and shards.
const regionPrefix = "/postern.v1.Region/"

// errand is what a call is for; who may call goes by it.
type errand uint8

const (
	errandUnknown  errand = iota // refused to everybody
	errandSession                // of a user's session
	errandAccept                 // whether mail would be taken
	errandDelivery               // of mail on its way in
	errandImport                 // of mail that another server kept, with its UIDs and times
	errandAddress                // on address records and who logs in with them
	errandAdmin                  // of an operator
	errandRoutes                 // of a process that starts without etcd
	errandCensus                 // on what a node serves, for an operator
	errandHeir                   // of a node that hands a shard over
	errandPush                   // on mailboxes that move away, for an operator
	errandStage                  // on how far a move has come in a shard
	errandArrival                // of a mailbox from another region
)

func errandOf(method string) errand {
	switch method {
	case posternv1.Maildrop_Challenge_FullMethodName, posternv1.Maildrop_Open_FullMethodName, posternv1.Maildrop_List_FullMethodName,
		posternv1.Maildrop_Read_FullMethodName, posternv1.Maildrop_Remove_FullMethodName,
		posternv1.Maildrop_Check_FullMethodName:
		return errandSession
	case posternv1.Maildrop_Accept_FullMethodName:
		return errandAccept
	case posternv1.Maildrop_Deliver_FullMethodName, posternv1.Maildrop_Feed_FullMethodName:
		return errandDelivery
	case posternv1.Maildrop_Import_FullMethodName:
		return errandImport
	case posternv1.Maildrop_PutAddress_FullMethodName, posternv1.Maildrop_GetAddress_FullMethodName,
		posternv1.Maildrop_RemoveAddress_FullMethodName, posternv1.Maildrop_ListAddresses_FullMethodName,
		posternv1.Maildrop_Explain_FullMethodName, posternv1.Maildrop_Unlock_FullMethodName,
		posternv1.Maildrop_Tell_FullMethodName:
		return errandAddress
	case posternv1.Routes_Snapshot_FullMethodName:
		return errandRoutes
	case posternv1.Census_Holdings_FullMethodName:
		return errandCensus
	case posternv1.Heir_Prepare_FullMethodName:
		return errandHeir
	case posternv1.Transfer_Push_FullMethodName:
		return errandPush
	case posternv1.Transfer_Survey_FullMethodName, posternv1.Transfer_Stage_FullMethodName:
		return errandStage
	case posternv1.Transfer_Inventory_FullMethodName, posternv1.Transfer_Receive_FullMethodName,
		posternv1.Transfer_ReceiveAddress_FullMethodName, posternv1.Transfer_Withdraw_FullMethodName:
		return errandArrival
	}
	if strings.HasPrefix(method, adminPrefix) || strings.HasPrefix(method, regionPrefix) {
		return errandAdmin
	}
	return errandUnknown
}

// NodeAllow says who may call a mailbox node: fronts of its region for sessions,
// address records, moves between regions, and the deliveries and imports that they relay
// as a gateway; intakes of its region for deliveries; processes of its region for routes; its
// other nodes for what they hand over; operators for the Admin service. Nobody else, and
// nothing else.
func NodeAllow(region string) func(Identity, string) error {
	return func(id Identity, method string) error {
		switch e := errandOf(method); {
		case e == errandAdmin && id.Role == RoleOperator:
			return nil
		case id.Region != region: // below: the node's own region only
		case id.Role == RoleFront && e != errandUnknown && e != errandAdmin && e != errandHeir, ofProcess(id) && e == errandRoutes:
			return nil
		case id.Role == RoleMailbox && e == errandHeir:
			return nil
		case id.Role == RoleIntake && (e == errandAccept || e == errandDelivery):
			return nil
		}
		return fmt.Errorf("%s may not call %s at a mailbox node of %s", id, method, region)
	}
}

// GatewayAllow says who may call a region's gateway: fronts of any region for
// sessions, address records and the imports of their operators; intakes of any
// region for deliveries; processes of its own region for routes; operators for the
// Admin service; in a move, fronts of any region for its stages, and mailbox nodes of others
// for what they hand over. Nobody else, and nothing else.
func GatewayAllow(region string) func(Identity, string) error {
	return func(id Identity, method string) error {
		switch e := errandOf(method); {
		case e == errandAdmin && id.Role == RoleOperator:
			return nil
		case id.Role == RoleFront && (e == errandSession || e == errandAddress || e == errandAccept || e == errandImport):
			return nil
		case id.Role == RoleIntake && (e == errandAccept || e == errandDelivery):
			return nil
		case ofProcess(id) && id.Region == region && e == errandRoutes:
			return nil
		case id.Role == RoleFront && e == errandStage, id.Role == RoleMailbox && id.Region != region && e == errandArrival:
			return nil
		}
		return fmt.Errorf("%s may not call %s at the gateway of %s", id, method, region)
	}
}

func ofProcess(id Identity) bool {
	return id.Role == RoleFront || id.Role == RoleIntake || id.Role == RoleMailbox
}
