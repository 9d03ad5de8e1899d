Feature: Servers of any kind stand behind the line of tasks
  A pool of engine command runs a server that is no engine of a language model, and passes it its requests as they are.

  Background:
    Given a pool "speech" of studios with
      | model  | {id: voice, ref: a voice} |
      | routes | ["/v1/audio/*"]           |

  @LO-466 @LO-467
  Scenario: A request is passed on, and nothing of it is kept
    Given a daemon
    When I post to "/v1/audio/speech"
      """
      {"model": "voice", "input": "rain"}
      """
    Then the answer is 200
    And its headers have
      | Content-Type | audio/wav |
      | X-Durable    | no        |
      | X-Replica-Id | speech-0  |
    When I send GET "/v1/tasks"
    Then its body lists 0 "tasks"
    When I send GET "/v1/pools"
    Then its body has
      | pools.0.engine   | command     |
      | pools.0.workload | opaque      |
      | pools.0.routes.0 | /v1/audio/* |

  @LO-467
  Scenario: A server that dies before its answer is told in OpenAI's words, and started again
    Given a daemon
    When I post to "/v1/audio/speech?die=begin"
      """
      {"model": "voice", "input": "rain"}
      """
    Then the answer is 503
    And its body has
      | error.type    | server_error               |
      | error.message | /send the request again/   |
    And "/v1/pools/speech/health" has come to
      | pool.ready          | true                           |
      | replicas.0.restarts | 1                              |
    When I post to "/v1/audio/speech"
      """
      {"model": "voice", "input": "rain"}
      """
    Then the answer is 200

  @LO-468
  Scenario Outline: The pool is found by the model and the path
    Given a pool "drawing" of studios with
      | model     | {id: pencil, ref: a pencil} |
      | routes    | ["/v1/images/generations"]  |
      | lifecycle | on_demand                   |
    And a daemon
    When I post to "<path>"
      """
      <body>
      """
    Then the answer is <status>

    Examples:
      | path                     | body                              | status |
      | /v1/images/generations   | {"prompt": "a frog"}              | 200    |
      | /v1/images/generations   | {"model": "pencil", "prompt": ""} | 200    |
      | /v1/images/generations   | {"model": "voice", "prompt": ""}  | 400    |
      | /v1/audio/speech         | {"model": "nobody", "input": ""}  | 404    |
      | /v1/images/edits         | {"prompt": "a frog"}              | 404    |
