Feature: Artifacts are kept by their content
  The same bytes, posted once or twice, are one artifact. A download gives the posted bytes.

  @ORCH-3097 @HME-022
  Scenario: An artifact is stored, listed and downloaded in parts
    Given a daemon in front of a fake engine
    When I post to "/v1/artifacts"
      """
      {"kind": "plan", "media_type": "text/markdown", "content": "# A plan", "task_id": "job-1", "tags": ["draft"], "metadata": [{"key": "author", "value": "me"}]}
      """
    Then the answer is 201
    And its body has
      | id             | /^sha256-[0-9a-f]{64}$/ |
      | kind           | plan                    |
      | size_bytes     | 8                       |
      | metadata.0.key | author                  |
      | url            | /^http://127.0.0.1:$PORT/v1/artifacts/sha256-[0-9a-f]+/content$/ |
    And I keep its "id" as $ID
    And its headers have
      | Location | /v1/artifacts/$ID |
    When I post to "/v1/artifacts"
      """
      {"kind": "diff", "media_type": "text/plain", "content": "KzE=", "encoding": "base64", "tags": ["final"], "parent": "$ID"}
      """
    Then the answer is 201
    And its body has
      | parent     | $ID |
      | size_bytes | 2   |
    When I send GET "/v1/artifacts/$ID"
    Then the answer is 200
    And its body has
      | media_type | text/markdown |
    When I send GET "/v1/artifacts/$ID/content"
    Then the answer is 200
    And its body is "# A plan"
    And its headers have
      | ETag                   | "$ID"         |
      | Content-Type           | text/markdown |
      | X-Content-Type-Options | nosniff       |
    When I send GET "/v1/artifacts/$ID/content" with the headers
      | Range | bytes=2-3 |
    Then the answer is 206
    And its body is "A "
    And its headers have
      | Content-Range | bytes 2-3/8 |
    When I send GET "/v1/artifacts/$ID/content" with the headers
      | If-None-Match | "$ID" |
    Then the answer is 304
    And its body is ""
    When I send GET "/v1/artifacts/$ID/content" with the headers
      | Range | bytes=800- |
    Then the answer is 416 INVALID_PARAMS
    And its message says "8 bytes"
    When I send GET "/v1/artifacts?kind=plan"
    Then the answer is 200
    And its body lists 1 "artifacts"
    When I send GET "/v1/artifacts?tag=final"
    Then its body has
      | artifacts.0.kind | diff |
    When I send GET "/v1/artifacts?task_id=job-1"
    Then its body has
      | artifacts.0.id | $ID |
    When I send GET "/v1/artifacts?tag=none"
    Then its body lists 0 "artifacts"
    When I run "llama-orch artifact get $ID"
    Then it exits with 0
    And it says "# A plan"
    When I kill the daemon
    And I start the daemon again
    And I send GET "/v1/artifacts/$ID/content"
    Then its body is "# A plan"

  @ORCH-3097
  Scenario: A body that is too large, or is not what it says, leaves nothing
    Given a daemon in front of a fake engine
    When I post 11000000 bytes to "/v1/artifacts"
    Then the answer is 413 TOO_LARGE
    When I post to "/v1/artifacts" a body that is said to have 10737418240 bytes, and keep the connection
    Then the answer is 413 TOO_LARGE
    When I post to "/v1/artifacts" a body that is said to have 1000 bytes, and hang up early
    And I post to "/v1/artifacts"
      """
      {"kind": "plan", "content": "not base64!", "encoding": "base64"}
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "base64"
    When I send GET "/v1/artifacts"
    Then its body lists 0 "artifacts"
    And the metrics have
      | llorch_artifact_bytes  | 0 |

  @ORCH-3097
  Scenario Outline: An id leads nowhere but to an artifact
    Given the shared daemon
    When I send GET "<path>"
    Then the answer is <answer>

    Examples:
      | path                                                          | answer             |
      | /v1/artifacts/..%2f..%2f..%2fetc%2fpasswd                     | 400 INVALID_PARAMS |
      | /v1/artifacts/..%2f..%2fllorch.db/content                     | 400 INVALID_PARAMS |
      | /v1/artifacts/sha256-%2e%2e/content                           | 400 INVALID_PARAMS |
      | /v1/artifacts/sha256-11d2a5b1c0ffee0011d2a5b1c0ffee0011d2a5b1c0ffee0011d2a5b1c0ffee00 | 404 NOT_FOUND |
      | /v1/artifacts?kind=loot                                       | 400 INVALID_PARAMS |
