package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/slipway-platform/slipway"
)

// BrokerConfig says which NATS server gets all events, by JetStream.
type BrokerConfig struct {
	URL         string           `yaml:"url" doc:"Addresses of NATS servers with JetStream, such as nats://nats.example.com:4222 or tls://…, with commas between; empty: no broker"`
	Stream      string           `yaml:"stream" doc:"Stream that keeps the events; made when there is none"`
	Subject     string           `yaml:"subject" doc:"What subjects begin with; the event's type follows: slipway.dev.cdevents.pipelinerun.finished.0.3.0"`
	Types       []string         `yaml:"types" doc:"Types of events that are handed over, or beginnings of them and *; empty: all"`
	Credentials string           `yaml:"credentials" doc:"File with NATS credentials (JWT and seed)"`
	CAFile      string           `yaml:"caFile" doc:"PEM file with the authorities of the servers' certificates; empty: the system's"`
	Keep        slipway.Duration `yaml:"keep" doc:"How long a stream that is made here keeps events"`
}

// DefaultBroker is what holds where nothing is said.
func DefaultBroker() BrokerConfig {
	return BrokerConfig{Stream: "SLIPWAY", Subject: "slipway", Keep: slipway.Duration(7 * 24 * time.Hour)}
}

var (
	streamName    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	subjectPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// Validate reports all faults together, each with its key.
func (c BrokerConfig) Validate() error {
	if c.URL == "" {
		return nil
	}
	var faults []error
	for address := range strings.SplitSeq(c.URL, ",") {
		scheme, rest, ok := strings.Cut(strings.TrimSpace(address), "://")
		if !ok || rest == "" || scheme != "nats" && scheme != "tls" {
			faults = append(faults, errors.New("events.broker.url: write nats://host:4222 or tls://host:4222, several with commas between"))
			break
		}
	}
	if !streamName.MatchString(c.Stream) {
		faults = append(faults, fmt.Errorf("events.broker.stream: %.80q must be letters, digits, - and _", c.Stream))
	}
	if !subjectPrefix.MatchString(c.Subject) {
		faults = append(faults, fmt.Errorf("events.broker.subject: %.80q must be words of letters, digits, - and _ with dots between", c.Subject))
	}
	if c.Keep.Std() < time.Hour {
		faults = append(faults, fmt.Errorf("events.broker.keep: %s is shorter than an hour", c.Keep))
	}
	return errors.Join(faults...)
}

// duplicates is how long a stream that is made here knows the ids of messages again.
const duplicates = 10 * time.Minute

// Broker hands events to NATS JetStream, each as a CloudEvent in JSON under a subject of its type. Every message is acknowledged by the stream before the next is sent, so
// that their order is that of the events, and has the event's id as Nats-Msg-Id, by which the stream knows it again when it is sent twice. Close it.
type Broker struct {
	config BrokerConfig
	log    *slog.Logger
	mu     sync.Mutex
	conn   *nats.Conn
	stream jetstream.JetStream
}

// NewBroker makes a Broker; it connects when there is something to send.
func NewBroker(c BrokerConfig, log *slog.Logger) *Broker { return &Broker{config: c, log: log} }

// Forward is the subscription to give to a Bus.
func (k *Broker) Forward() Forward {
	return Forward{Name: "slipway.broker", Types: k.config.Types, Send: k.Send}
}

// Send implements Forward.Send.
func (k *Broker) Send(ctx context.Context, events []Event) (arrived int, err error) {
	js, err := k.connect(ctx)
	if err != nil {
		return 0, err
	}
	for i, e := range events {
		raw, err := json.Marshal(e)
		if err != nil {
			return i, err
		}
		m := nats.NewMsg(k.config.Subject + "." + e.Type)
		m.Data = raw
		m.Header.Set("content-type", "application/cloudevents+json; charset=utf-8")
		if _, err := js.PublishMsg(ctx, m, jetstream.WithMsgID(e.ID), jetstream.WithExpectStream(k.config.Stream), jetstream.WithRetryAttempts(0)); err != nil {
			return i, fmt.Errorf("the broker did not take it: %w", err)
		}
	}
	return len(events), nil
}

// connect gives the connection, made anew where there is none, and sees to it that there is a stream.
func (k *Broker) connect(ctx context.Context) (jetstream.JetStream, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil && k.conn.Status() == nats.CONNECTED {
		return k.stream, nil
	}
	if k.conn != nil {
		k.conn.Close()
		k.conn = nil
	}
	options := []nats.Option{
		nats.Name("slipway"), nats.Timeout(5 * time.Second), nats.NoReconnect(), // we come again ourselves, and nothing may wait in a buffer that a death would lose
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { k.log.Warn("the broker complains", "error", err) }),
	}
	if k.config.Credentials != "" {
		options = append(options, nats.UserCredentials(k.config.Credentials))
	}
	if k.config.CAFile != "" {
		options = append(options, nats.RootCAs(k.config.CAFile))
	}
	conn, err := nats.Connect(k.config.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("the broker cannot be reached: %w", err)
	}
	js, err := jetstream.New(conn)
	if err == nil {
		_, err = js.Stream(ctx, k.config.Stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = js.CreateStream(ctx, jetstream.StreamConfig{
				Name: k.config.Stream, Subjects: []string{k.config.Subject + ".>"}, Storage: jetstream.FileStorage, MaxAge: k.config.Keep.Std(), Duplicates: min(duplicates, k.config.Keep.Std()),
			})
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("the broker has no stream %s: %w", k.config.Stream, err)
	}
	k.conn, k.stream = conn, js
	return js, nil
}

// Close ends the connection.
func (k *Broker) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		k.conn.Close()
	}
	return nil
}
