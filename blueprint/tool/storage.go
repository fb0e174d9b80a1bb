package tool

import (
	"context"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// Storage keeps configurations, deployments and deploy tokens. Every store passes testStorage. All functions may be called concurrently, by
// any number of replicas.
//
// What is not there is NotFound, with a sentence that begins with "Unable to find". A change of a thing that was read (its Version is set) is a
// Conflict when somebody else has changed or deleted the thing since, and changes nothing then. A store that does not answer is Unavailable.
//
// Then is what belongs to a change: jobs and events. A store in the main database runs it in the transaction of the change. Another one notes in the database that
// it is owed, makes the change, and then runs it in the transaction that takes the note away. What a crash leaves owed is listed by Owed and done by Settle, whoever
// comes first, so that each piece of news is told once. Then may run more than once, and only its last run counts. nil: nothing belongs to it.
type Storage interface {
	Config(ctx context.Context, tool string) (Config, error)
	// SetConfig stores a tool's only configuration, and returns it with its new version. Without a Version it replaces whatever is there.
	SetConfig(ctx context.Context, c Config, then Then) (Config, error)
	// DeleteConfig deletes it and gives what it was.
	DeleteConfig(ctx context.Context, tool string, then Then) (Config, error)

	// Create stores a new deployment and returns it with its version. While another one of the tool is active it is a Conflict, whoever asks at the same moment; so
	// it is when the id is taken.
	Create(ctx context.Context, d Deployment, then Then) (Deployment, error)
	Deployment(ctx context.Context, tool, id string) (Deployment, error)
	// Deployments gives those of a tool, oldest first, by creation and id; none for a tool that has none.
	Deployments(ctx context.Context, tool string) ([]Deployment, error)
	// Active lists the active deployments of all tools, in any order.
	Active(ctx context.Context) ([]Reference, error)
	// Update stores a deployment that was read, and returns it with its new version. Tool, ID, Created and Config stay as they are.
	Update(ctx context.Context, d Deployment, then Then) (Deployment, error)
	// Delete deletes a deployment and gives what it was. An active one is a Conflict.
	Delete(ctx context.Context, tool, id string) (Deployment, error)

	// Owed lists what may be owed, of a change that is being made at the moment too: for a deployment, or everything when of has no tool. It gives at most
	// owedPage, in the order of tool and ID, of those that come after one; the zero Owed comes before all.
	Owed(ctx context.Context, of, after Owed) ([]Owed, error)
	// Settle runs what is owed for a deployment as it stands, and nothing when nothing is.
	Settle(ctx context.Context, d Deployment, then Then) error
	// SettleConfig runs what is owed for a tool's configuration.
	SettleConfig(ctx context.Context, tool string, then Then) error
	// Forget takes away what is owed for a deployment that is not there.
	Forget(ctx context.Context, o Owed) error

	DeployToken(ctx context.Context, tool string) (DeployToken, error)
	// SetDeployToken stores a tool's only deploy token. Without a Version there must be none yet (Conflict); with one it is replaced.
	SetDeployToken(ctx context.Context, t DeployToken) error
	DeleteDeployToken(ctx context.Context, tool string) (DeployToken, error)
}

// Then is what belongs to a change, see Storage.
type Then func(ctx context.Context, tx *store.Tx, n News) error

// News is what a change of a deployment means for others.
type News struct{ Created, Ended bool }

// owedPage is how many Owed are read at a time.
const owedPage = 500

// Owed is a change whose Then may not have run.
type Owed struct {
	Tool, ID string    // of a deployment; without an ID it is the configuration of the tool
	Since    time.Time // when the change was begun
}

// Reference names a stored deployment and its version.
type Reference struct {
	Tool, ID, Builder, Version string
	Created                    time.Time
}
