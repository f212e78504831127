// Whoami answers a request with the request itself and the host's name and addresses. Stands in for
// github.com/traefik/whoami, which proxy.golang.org does not have: its flag --port, health check and form of answer.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	port := flag.Int("port", 80, "port to listen on")
	flag.Parse()

	http.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		hostname, _ := os.Hostname()
		fmt.Fprintln(response, "Hostname:", hostname)
		addresses, _ := net.InterfaceAddrs()
		for _, address := range addresses {
			if network, ok := address.(*net.IPNet); ok {
				fmt.Fprintln(response, "IP:", network.IP)
			}
		}
		fmt.Fprintln(response, "RemoteAddr:", request.RemoteAddr)
		if err := request.Write(response); err != nil {
			log.Print(err)
		}
	})
	log.Printf("Starting up on port %d", *port)
	log.Fatal(http.ListenAndServe(fmt.Sprintf(":%d", *port), nil))
}
