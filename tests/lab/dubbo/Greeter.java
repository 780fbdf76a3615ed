/** Tells who answers. */
public interface Greeter {
    String who();
}
