# One image for every role; the command says which.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /millrace ./cmd/millrace

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /millrace /millrace
# The processors' local tables, the keys and the simulator's journal. Tables can be lost: Kafka has them.
COPY --from=build --chown=nonroot:nonroot /tmp /var/lib/millrace
ENV MILLRACE_DATA=/var/lib/millrace
ENTRYPOINT ["/millrace"]
CMD ["serve", "api"]
