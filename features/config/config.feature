Feature: Configuration
  The one YAML file is read strictly. For each mistake the program names file, line and remedy, and then it exits with 2.

  @HME-003
  Scenario Outline: Check takes the examples
    When I run "orchestratord check --config $ROOT/examples/<file>"
    Then it exits with 0
    And it says "<says>"

    Examples:
      | file          | says           |
      | haiku.yaml    | Pool 'default' |
      | external.yaml | Pool 'shared'  |

  @HME-003 @ORCH-1102
  Scenario: Check says what would be done, and does nothing
    Given the file "good.yaml"
      """
      auth: {optional_on_loopback: true}
      pools:
        - id: default
          device: cpu
          replicas: 2
          model: {id: haiku, ref: "file:$MODEL"}
      """
    When I run "orchestratord check --config good.yaml"
    Then it exits with 0
    And it says "2 built-in workers"
    And it says "callers on this machine need no token"

  @HME-003
  Scenario: All mistakes are named at once, each with its line and remedy
    Given the file "bad.yaml"
      """
      bind_adr: 127.0.0.1:8080
      auth: {optional_on_loopback: true}
      pools:
        - id: default
          device: cpu
          replica: 2
          slots: many
          model: {id: haiku, ref: "file:$MODEL"}
          queue: {full_policy: drop_lru}
      """
    When I run "orchestratord check --config bad.yaml"
    Then it exits with 2
    And it says "bad.yaml:1:1: unknown field bind_adr: did you mean bind_addr?"
    And it says "bad.yaml:6:5: unknown field pools[0].replica: did you mean replicas?"
    And it says "bad.yaml:7:12: "
    And it says "did you mean drop-lru?"
    And it does not say "goroutine"

  @HME-003
  Scenario Outline: Serve refuses what check refuses
    Given the file "bad.yaml"
      """
      <content>
      """
    When I run "orchestratord <command> --config bad.yaml"
    Then it exits with 2
    And it says "bad.yaml:<line>"
    And it says "<says>"

    Examples:
      | command | line | content                                   | says          |
      | check   | 1    | pools: []                                 | pools         |
      | serve   | 1    | pools: []                                 | pools         |
      | check   | 1    | pools: {a: 1                              | bad.yaml      |
      | serve   | 1    | pools: {a: 1                              | bad.yaml      |
      | check   | 1    | bind_addr: [1]                            | bind_addr     |

  @HME-003
  Scenario Outline: A file that is not there
    When I run "orchestratord <command> --config nowhere.yaml"
    Then it exits with 2
    And it says "nowhere.yaml"
    And it says "--config"

    Examples:
      | command |
      | check   |
      | serve   |

  @HME-003
  Scenario: A model file that is not there is named with its line
    Given the file "bad.yaml"
      """
      auth: {optional_on_loopback: true}
      pools:
        - id: default
          device: cpu
          model: {id: haiku, ref: "file:gone.gguf"}
      """
    When I run "orchestratord check --config bad.yaml"
    Then it exits with 2
    And it says "bad.yaml:5:"
    And it says "there is no model file $DIR/gone.gguf"

  @HME-003
  Scenario Outline: Bad usage
    When I run "orchestratord <line>"
    Then it exits with 2
    And it says "error: "

    Examples:
      | line                             |
      | serve                            |
      | check --config                   |
      | check --confi x.yaml             |
      | dance                            |
      | serve --config x.yaml --stop-within soon |

  @HME-003
  Scenario: The environment overrides the file
    Given the file "good.yaml"
      """
      bind_addr: 127.0.0.1:1
      auth: {optional_on_loopback: false}
      pools:
        - id: default
          device: cpu
          model: {id: haiku, ref: "file:$MODEL"}
      """
    And the environment
      | LLORCH_BIND_ADDR | 127.0.0.1:4567       |
      | LLORCH_DATA_DIR  | $DIR/elsewhere       |
      | LLORCH_API_TOKEN | the-right-token-1234 |
    When I run "orchestratord check --config good.yaml"
    Then it exits with 0
    And it says "127.0.0.1:4567"
    And it says "$DIR/elsewhere"
    And it says "callers need the API token"
    And it does not say "the-right-token-1234"

  @HME-003
  Scenario: A bad environment is named too
    Given the environment
      | LLORCH_BIND_ADDR | nonsense |
    And the daemon's config file with the pool
      | replicas | 1 |
    When I run "orchestratord check --config config.yaml"
    Then it exits with 2
    And it says "LLORCH_BIND_ADDR"
