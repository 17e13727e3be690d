// Three HashiCorp Raft servers and their clients in one process, with raft-boltdb over TCP: what
// src/bin/quorate_library.rs does with Quorate. Prints the same line of JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
)

// counter counts what it is given.
type counter struct{ count uint64 }

func (c *counter) Apply(*raft.Log) interface{}         { c.count++; return nil }
func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return c, nil }
func (c *counter) Restore(r io.ReadCloser) error       { _, err := fmt.Fscan(r, &c.count); return err }
func (c *counter) Release()                            {}
func (c *counter) Persist(sink raft.SnapshotSink) error {
	if _, err := fmt.Fprint(sink, c.count); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

func start(id, dir string) (*raft.Raft, raft.Server) {
	check(os.MkdirAll(dir, 0o755))
	store, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	check(err)
	snapshots, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
	check(err)
	transport, err := raft.NewTCPTransport("127.0.0.1:0", nil, 3, 10*time.Second, io.Discard)
	check(err)
	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(id)
	config.LogOutput = io.Discard
	// As its documentation advises for throughput; the default is 64.
	config.MaxAppendEntries = 1024
	node, err := raft.NewRaft(config, &counter{}, store, store, snapshots, transport)
	check(err)
	return node, raft.Server{ID: raft.ServerID(id), Address: transport.LocalAddr()}
}

func main() {
	clients := flag.Int("clients", 64, "")
	seconds := flag.Float64("seconds", 5, "")
	bytes := flag.Int("command-bytes", 128, "")
	parent := flag.String("dir", "", "")
	flag.Parse()
	dir, err := os.MkdirTemp(*parent, "hashicorp")
	check(err)
	defer os.RemoveAll(dir)

	var nodes []*raft.Raft
	var configuration raft.Configuration
	for i := 1; i <= 3; i++ {
		id := fmt.Sprint(i)
		node, server := start(id, filepath.Join(dir, id))
		nodes = append(nodes, node)
		configuration.Servers = append(configuration.Servers, server)
	}
	check(nodes[0].BootstrapCluster(configuration).Error())
	var leader *raft.Raft
	for deadline := time.Now().Add(20 * time.Second); leader == nil; time.Sleep(20 * time.Millisecond) {
		for _, node := range nodes {
			if node.State() == raft.Leader {
				leader = node
			}
		}
		if time.Now().After(deadline) {
			log.Fatal("nobody leads")
		}
	}

	duration := time.Duration(*seconds * float64(time.Second))
	countedFrom := time.Now().Add(duration / 5)
	until := countedFrom.Add(duration)
	command := make([]byte, *bytes)
	all := make([][]time.Duration, *clients)
	failed := make([]uint64, *clients)
	var group sync.WaitGroup
	for client := 0; client < *clients; client++ {
		group.Add(1)
		go func(client int) {
			defer group.Done()
			for {
				asked := time.Now()
				if !asked.Before(until) {
					return
				}
				err := leader.Apply(command, 10*time.Second).Error()
				if asked.Before(countedFrom) {
					continue
				}
				if err != nil {
					failed[client]++
				} else {
					all[client] = append(all[client], time.Since(asked))
				}
			}
		}(client)
	}
	time.Sleep(time.Until(countedFrom))
	before := processorSeconds()
	group.Wait()
	used := processorSeconds() - before

	var latencies []time.Duration
	var failures uint64
	for client := range all {
		latencies = append(latencies, all[client]...)
		failures += failed[client]
	}
	sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
	quantile := func(q float64) int64 {
		if len(latencies) == 0 {
			return 0
		}
		return latencies[int(q*float64(len(latencies)-1))].Microseconds()
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"operations": len(latencies), "seconds": *seconds, "failed": failures,
		"p50_micros": quantile(0.5), "p99_micros": quantile(0.99), "p999_micros": quantile(0.999),
		"processor_seconds": used,
	}))
}

func processorSeconds() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
