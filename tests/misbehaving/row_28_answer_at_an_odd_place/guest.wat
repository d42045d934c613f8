;; Puts its answer where none may begin.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (i32.const 3))
